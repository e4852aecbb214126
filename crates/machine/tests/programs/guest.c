#include "guest.h"

struct answer {
    long error;
    long value;
};

static struct answer call(u64 extension, u64 function, u64 first, u64 second, u64 third)
{
    register u64 a0 asm("a0") = first;
    register u64 a1 asm("a1") = second;
    register u64 a2 asm("a2") = third;
    register u64 a6 asm("a6") = function;
    register u64 a7 asm("a7") = extension;
    asm volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a2), "r"(a6), "r"(a7) : "memory");
    return (struct answer){(long)a0, (long)a1};
}

void print(const char *text)
{
    for (; *text; text++)
        call(1, 0, (u8)*text, 0, 0);
}

void print_hex(u64 value)
{
    char digits[17];
    for (int i = 15; i >= 0; i--, value >>= 4)
        digits[i] = "0123456789abcdef"[value & 15];
    digits[16] = 0;
    print(digits);
}

void print_decimal(u64 value)
{
    char digits[21];
    int at = 20;
    digits[at] = 0;
    do {
        digits[--at] = '0' + value % 10;
        value /= 10;
    } while (value);
    print(digits + at);
}

void report(const char *name, u64 value)
{
    print(name);
    print(" ");
    print_hex(value);
    print("\n");
}

extern void _start(void);

long start_hart(u64 id)
{
    return call(0x48534d, 0, id, (u64)_start, 1).error;
}

u64 random_next(u64 *state)
{
    u64 x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

__attribute__((noreturn)) void boot(u64 id)
{
    print("\n<begin>\n");
    run(id);
    print("<end>\n");
    call(0x53525354, 0, 0, 0, 0);
    for (;;)
        asm volatile("wfi");
}

__attribute__((weak)) void hart_main(u64 id)
{
    (void)id;
}

__attribute__((noreturn)) void other(u64 id)
{
    hart_main(id);
    call(0x48534d, 1, 0, 0, 0);
    for (;;)
        asm volatile("wfi");
}

void *memset(void *to, int byte, u64 count)
{
    u8 *at = to;
    while (count--)
        *at++ = (u8)byte;
    return to;
}

void *memcpy(void *to, const void *from, u64 count)
{
    u8 *at = to;
    const u8 *source = from;
    while (count--)
        *at++ = *source++;
    return to;
}

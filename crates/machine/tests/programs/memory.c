/* Misaligned accesses, also across pages, sign extension, and code that is written and run. */
#include "guest.h"

static u8 bytes[3 * 4096] __attribute__((aligned(4096)));
static u32 code[2] __attribute__((aligned(8)));

#define LOAD(name)                                                                       \
    static u64 name##_(const void *at)                                                   \
    {                                                                                    \
        u64 value;                                                                       \
        asm volatile(#name " %0, 0(%1)" : "=r"(value) : "r"(at) : "memory");             \
        return value;                                                                    \
    }
#define STORE(name)                                                                      \
    static void name##_(void *at, u64 value)                                             \
    {                                                                                    \
        asm volatile(#name " %1, 0(%0)" : : "r"(at), "r"(value) : "memory");             \
    }

LOAD(lb) LOAD(lh) LOAD(lw) LOAD(ld) LOAD(lbu) LOAD(lhu) LOAD(lwu)
STORE(sb) STORE(sh) STORE(sw) STORE(sd)

static void accesses(void)
{
    u64 (*const loads[])(const void *) = {lb_, lh_, lw_, ld_, lbu_, lhu_, lwu_};
    void (*const stores[])(void *, u64) = {sb_, sh_, sw_, sd_};
    u64 seed = 99, hash = 0;
    for (int i = 0; i < 40000; i++) {
        u64 value = random_next(&seed), at = random_next(&seed) % (sizeof bytes - 8);
        if (i % 4 == 0)
            at = 4096 * (1 + i % 2) - 1 - at % 8;
        stores[i % 3 + (i & 1)](bytes + at, value);
        hash = hash * 31 + loads[value % 7](bytes + at);
    }
    report("loads", hash);
    hash = 0;
    for (u64 i = 0; i < sizeof bytes; i++)
        hash = hash * 31 + bytes[i];
    report("bytes", hash);
}

void run(u64 id)
{
    (void)id;
    accesses();
    for (u32 i = 0; i < 50; i++) {
        code[0] = 0x00000513 | i << 20; /* li a0, i */
        code[1] = 0x00008067;           /* ret */
        asm volatile("fence.i" ::: "memory");
        u64 answer = ((u64(*)(void))code)();
        if (answer != i)
            report("stale code", answer);
    }
    print("code done\n");
}

/* Multiplication, division and shifts by the instructions themselves, edges included. */
#include "guest.h"

#define OPERATION(name)                                                   \
    static u64 name##_(u64 a, u64 b)                                      \
    {                                                                     \
        u64 result;                                                       \
        asm volatile(#name " %0, %1, %2" : "=r"(result) : "r"(a), "r"(b)); \
        return result;                                                    \
    }

#define EACH(with)                                                                       \
    with(mul) with(mulh) with(mulhu) with(mulhsu) with(div) with(divu) with(rem)         \
    with(remu) with(mulw) with(divw) with(divuw) with(remw) with(remuw) with(sll)        \
    with(srl) with(sra) with(sllw) with(srlw) with(sraw) with(add) with(addw) with(sub)  \
    with(subw) with(slt) with(sltu) with(and) with(or) with(xor)

EACH(OPERATION)

#define NAME(name) {#name, name##_},

static const struct {
    const char *name;
    u64 (*perform)(u64, u64);
} operations[] = {EACH(NAME)};

static const u64 edges[] = {
    0, 1, 2, 3, 7, 31, 32, 63, 64, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
    0x7fffffffffffffff, 0x8000000000000000, 0xffffffff80000000, 0xfffffffffffffffe,
    0xffffffffffffffff,
};

void run(u64 id)
{
    const u64 count = sizeof edges / sizeof *edges;
    (void)id;
    for (u64 n = 0; n < sizeof operations / sizeof *operations; n++) {
        u64 seed = 77, hash = 0;
        for (u64 i = 0; i < count; i++)
            for (u64 j = 0; j < count; j++)
                hash = hash * 1099511628211 + operations[n].perform(edges[i], edges[j]);
        for (int i = 0; i < 5000; i++) {
            u64 a = random_next(&seed), b = random_next(&seed);
            hash = hash * 1099511628211 + operations[n].perform(a, b >> (a & 63));
        }
        report(operations[n].name, hash);
    }
    report("div by zero", div_(5, 0));
    report("rem by zero", rem_(5, 0));
    report("divw by zero", divw_(5, 0));
    report("remuw by zero", remuw_(0x80000005, 0));
    report("div overflow", div_(1ul << 63, -1));
    report("rem overflow", rem_(1ul << 63, -1));
    report("divw overflow", divw_(1ul << 31, -1));
}

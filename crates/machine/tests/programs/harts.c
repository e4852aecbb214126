/* Several harts at once: counters by AMO and by LR and SC, a lock, a queue of turns. */
#include "guest.h"

#define HARTS 4
#define ROUNDS 20000

static u64 by_amo, by_reservation, guarded;
static u32 by_word_amo, lock, finished;
static u64 least = ~0ul;
static u64 most_signed = 1ul << 63;
static u64 bits;
static u64 turn;

static void take_lock(void)
{
    u32 was;
    do
        asm volatile("amoswap.w.aq %0, %2, %1" : "=r"(was), "+A"(lock) : "r"(1) : "memory");
    while (was);
}

static void drop_lock(void)
{
    asm volatile("amoswap.w.rl zero, zero, %0" : "+A"(lock)::"memory");
}

static void add_by_reservation(u64 *to)
{
    u64 value, failed;
    asm volatile("1: lr.d %0, %2\n addi %0, %0, 1\n sc.d %1, %0, %2\n bnez %1, 1b"
                 : "=&r"(value), "=&r"(failed), "+A"(*to)::"memory");
}

void hart_main(u64 id)
{
    u64 seed = 1000 + 17 * id * id;
    for (int i = 0; i < ROUNDS; i++) {
        u64 value = random_next(&seed);
        asm volatile("amoadd.d zero, %1, %0" : "+A"(by_amo) : "r"(3) : "memory");
        asm volatile("amoadd.w zero, %1, %0" : "+A"(by_word_amo) : "r"(-7) : "memory");
        asm volatile("amominu.d zero, %1, %0" : "+A"(least) : "r"(value) : "memory");
        asm volatile("amomax.d zero, %1, %0" : "+A"(most_signed) : "r"(value) : "memory");
        asm volatile("amoxor.d zero, %1, %0" : "+A"(bits) : "r"(value) : "memory");
        add_by_reservation(&by_reservation);
        take_lock();
        guarded += value & 15;
        drop_lock();
    }
    for (u64 i = id; i < 40; i += HARTS) {
        while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) != i)
            ;
        __atomic_store_n(&turn, i + 1, __ATOMIC_RELEASE);
    }
    __atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
}

void run(u64 id)
{
    u64 started = 0;
    for (u64 other = 0; other < HARTS; other++)
        started += other != id && start_hart(other) == 0;
    report("started", started);
    report("no such hart", start_hart(99));
    report("already started", start_hart(id));
    hart_main(id);
    while (__atomic_load_n(&finished, __ATOMIC_ACQUIRE) != HARTS)
        ;
    report("amoadd.d", by_amo);
    report("amoadd.w", by_word_amo);
    report("lr/sc", by_reservation);
    report("lock", guarded);
    report("amominu", least);
    report("amomax", most_signed);
    report("amoxor", bits);
    report("turns", turn);
}

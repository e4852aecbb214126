#include "guest.h"

#define COUNT 30000

static i64 numbers[COUNT];

static int less(i64 a, i64 b)
{
    return a < b;
}

static int (*volatile order)(i64, i64) = less;

static void sort(i64 *from, i64 *to)
{
    if (to - from < 2)
        return;
    i64 pivot = from[(to - from - 1) / 2], *left = from - 1, *right = to;
    for (;;) {
        do
            left++;
        while (order(*left, pivot));
        do
            right--;
        while (order(pivot, *right));
        if (left >= right)
            break;
        i64 kept = *left;
        *left = *right;
        *right = kept;
    }
    sort(from, right + 1);
    sort(right + 1, to);
}

void run(u64 id)
{
    u64 seed = 12345, hash = 0;
    (void)id;
    for (int i = 0; i < COUNT; i++)
        numbers[i] = (i64)random_next(&seed) >> (i % 60);
    sort(numbers, numbers + COUNT);
    for (int i = 0; i < COUNT; i++) {
        if (i && numbers[i] < numbers[i - 1])
            report("out of order at", i);
        hash = hash * 31 + numbers[i];
    }
    report("least", numbers[0]);
    report("greatest", numbers[COUNT - 1]);
    report("hash", hash);
}

#include "guest.h"

#define LIMIT 200000

static u8 composite[LIMIT];

void run(u64 id)
{
    u64 count = 0, sum = 0, last = 0;
    (void)id;
    for (u64 n = 2; n < LIMIT; n++) {
        if (composite[n])
            continue;
        count++;
        sum += n;
        last = n;
        for (u64 m = n * n; m < LIMIT; m += n)
            composite[m] = 1;
    }
    report("primes", count);
    report("sum", sum);
    report("last", last);
}

/* FIPS 180-4. The constants are computed: roots of primes, by integers. */
#include "guest.h"

static u32 constants[64], initial[8];

static u32 rotate(u32 x, int by)
{
    return x >> by | x << (32 - by);
}

/* The first 32 bits of the fraction of the square root (power 2) or cube root (3) of n. */
static u32 fraction_of_root(u64 n, int power)
{
    u128 low = 0, high = (u128)1 << 37;
    while (high - low > 1) {
        u128 middle = (low + high) / 2;
        u128 raised = middle * middle;
        int above;
        if (power == 2)
            above = raised > (u128)n << 64;
        else
            above = raised / 65536 * middle / 65536 > (u128)n << 64;
        if (above)
            high = middle;
        else
            low = middle;
    }
    return (u32)low;
}

static void prepare(void)
{
    int found = 0;
    for (u64 n = 2; found < 64; n++) {
        int prime = 1;
        for (u64 d = 2; d * d <= n; d++)
            if (n % d == 0)
                prime = 0;
        if (!prime)
            continue;
        if (found < 8)
            initial[found] = fraction_of_root(n, 2);
        constants[found++] = fraction_of_root(n, 3);
    }
}

static void block(u32 *state, const u8 *bytes)
{
    u32 w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (u32)bytes[4 * i] << 24 | bytes[4 * i + 1] << 16 | bytes[4 * i + 2] << 8 | bytes[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        u32 s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        u32 s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    for (int i = 0; i < 8; i++)
        s[i] = state[i];
    for (int i = 0; i < 64; i++) {
        u32 s1 = rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25);
        u32 choose = (s[4] & s[5]) ^ (~s[4] & s[6]);
        u32 one = s[7] + s1 + choose + constants[i] + w[i];
        u32 s0 = rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22);
        u32 two = s0 + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        for (int j = 7; j > 0; j--)
            s[j] = s[j - 1];
        s[4] += one;
        s[0] = one + two;
    }
    for (int i = 0; i < 8; i++)
        state[i] += s[i];
}

static void digest(const u8 *bytes, u64 length)
{
    u32 state[8];
    u8 last[128];
    u64 whole = length / 64 * 64, rest = length - whole, padded = rest < 56 ? 64 : 128;
    for (int i = 0; i < 8; i++)
        state[i] = initial[i];
    for (u64 at = 0; at < whole; at += 64)
        block(state, bytes + at);
    for (u64 i = 0; i < 128; i++)
        last[i] = i < rest ? bytes[whole + i] : 0;
    last[rest] = 0x80;
    for (u64 i = 0; i < 8; i++)
        last[padded - 1 - i] = (u8)(length * 8 >> 8 * i);
    for (u64 at = 0; at < padded; at += 64)
        block(state, last + at);
    for (int i = 0; i < 4; i++)
        print_hex((u64)state[2 * i] << 32 | state[2 * i + 1]);
    print("\n");
}

static u8 data[100000];

void run(u64 id)
{
    u64 seed = 88172645463325252;
    (void)id;
    prepare();
    digest((const u8 *)"", 0);
    digest((const u8 *)"abc", 3);
    for (u64 i = 0; i < sizeof data; i++)
        data[i] = (u8)random_next(&seed);
    for (u64 length = 54; length < 130; length += 3)
        digest(data + length, length);
    digest(data, sizeof data);
}

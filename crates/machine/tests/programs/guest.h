/* What the test programs share: calls of the SBI, and printing. */
#ifndef GUEST_H
#define GUEST_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long i64;
typedef unsigned __int128 u128;

void print(const char *text);
void print_hex(u64 value);
void print_decimal(u64 value);
/* Prints a name and a number on a line. */
void report(const char *name, u64 value);
/* Starts hart `id` in `hart_main`; 0 if it is there. */
long start_hart(u64 id);
u64 random_next(u64 *state);

/* The program: `id` is the hart that boots. */
void run(u64 id);
/* What a started hart does. */
void hart_main(u64 id);

#endif

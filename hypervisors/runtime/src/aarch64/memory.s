// The functions that the compiler calls by itself. Written in Rust they would become calls of
// themselves. Sixteen bytes at a time, and what is left one by one.

.section .text.memory, "ax"
.globl memcpy, memmove, memset, memcmp, bcmp
memmove:
    sub x3, x0, x1
    cmp x3, x2
    b.lo 5f
memcpy:
    mov x3, x0
1:
    subs x2, x2, #16
    b.lo 2f
    ldp x4, x5, [x1], #16
    stp x4, x5, [x3], #16
    b 1b
2:
    adds x2, x2, #16
    b.eq 4f
3:
    ldrb w4, [x1], #1
    strb w4, [x3], #1
    subs x2, x2, #1
    b.ne 3b
4:
    ret

// Backwards, since the end of the one is in the other.
5:
    cbz x2, 4b
    sub x2, x2, #1
    ldrb w4, [x1, x2]
    strb w4, [x0, x2]
    b 5b

memset:
    and x1, x1, #0xff
    mov x3, #0x0101010101010101
    mul x1, x1, x3
    mov x3, x0
1:
    subs x2, x2, #16
    b.lo 2f
    stp x1, x1, [x3], #16
    b 1b
2:
    adds x2, x2, #16
    b.eq 4f
3:
    strb w1, [x3], #1
    subs x2, x2, #1
    b.ne 3b
4:
    ret

memcmp:
bcmp:
    mov x3, x0
    mov w0, #0
1:
    cbz x2, 2f
    ldrb w4, [x3], #1
    ldrb w5, [x1], #1
    sub x2, x2, #1
    subs w0, w4, w5
    b.eq 1b
2:
    ret

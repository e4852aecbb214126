# Entry of every hart: a0 is its id, and each has 64 KiB of stack.
        .section .text.start, "ax"
        .globl _start
_start:
        la      sp, stacks
        addi    t0, a0, 1
        slli    t0, t0, 16
        add     sp, sp, t0
        li      t0, 1               # what start_hart passes; firmware passes an address
        beq     a1, t0, 1f
        call    boot
1:      call    other

// The guest's program, copied to its address 0. It runs at EL1, obeys its registers and ends with a
// hypervisor call: x0 is 0 for stores and 1 for loads, x1 where, x2 how far apart, x3 how many, x4
// what is stored or was loaded.

.section .rodata.guest, "a"
.balign 8
.globl guest_program, guest_program_end
guest_program:
1:
    cbnz x0, 2f
    str x4, [x1]
    b 3f
2:
    ldr x4, [x1]
3:
    add x1, x1, x2
    subs x3, x3, #1
    b.ne 1b
    hvc #0

// Switches its MMU on: x0 is TCR_EL1, x1 TTBR0_EL1, x2 MAIR_EL1, x3 SCTLR_EL1.
.balign 0x100
    msr tcr_el1, x0
    msr ttbr0_el1, x1
    msr mair_el1, x2
    isb
    tlbi vmalle1
    dsb nsh
    isb
    msr sctlr_el1, x3
    isb
    hvc #0

// Stores x4 in every width from x1 on, each in eight bytes of its own, then a zero; and after a call a
// pair of registers.
.balign 0x80
    strb w4, [x1]
    strh w4, [x1, #8]
    str w4, [x1, #16]
    str x4, [x1, #24]
    str xzr, [x1, #32]
    hvc #0
    stp x4, x4, [x1, #40]
    hvc #0

// Its vectors are at 0x800: an exception of its own is a mistake, and told of.
.balign 0x800
.rept 16
    .balign 128
    hvc #1
.endr
guest_program_end:

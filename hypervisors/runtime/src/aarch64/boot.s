// From the machine's start, or from PSCI, to Rust at EL2.
//
// Both begin with the MMU off. Shared memory, and what `ldxr` and `stxr` work on, has to be normal and
// cacheable on silicon, so each CPU switches its MMU on before it looks at anything another one wrote.

.section .boot, "ax"
.globl boot
boot:
    ldr x1, =boot_stack_top
    mov sp, x1
    ldr x1, =zeroes_start
    ldr x2, =zeroes_end
1:
    cmp x1, x2
    b.hs 2f
    stp xzr, xzr, [x1], #16
    b 1b
2:
    mrs x0, CurrentEL
    cmp x0, #(2 << 2)
    b.ne 3f
    bl prepare_el2
    bl {enter}
3:
    bl {refuse}

// PSCI starts a CPU here, with whatever CPU_ON was given in x0.
.globl boot_another
boot_another:
    mov x19, x0
    bl prepare_el2
    mrs x1, mpidr_el1
    and x1, x1, #0xff
    ldr x2, =stacks
    mov x3, #0x10000
    madd x2, x1, x3, x2
    add sp, x2, x3
    mov x0, x19
    bl {enter_another}

// Vectors, and all memory one to one. Leaves sp and x19 alone.
prepare_el2:
    mov x1, #0x32ff                     // what is reserved is set; floating point is not trapped
    msr cptr_el2, x1
    ldr x1, =vectors
    msr vbar_el2, x1
    mov x1, #0xff                       // attribute 0: normal, write-back; 1: device
    msr mair_el2, x1
    ldr x1, =0x80823519                 // 39 bits, 4 KiB, inner shareable, write-back, 40 bits out
    msr tcr_el2, x1
    ldr x1, =page_table
    msr ttbr0_el2, x1
    dsb ish
    tlbi alle2
    dsb nsh
    isb
    ldr x1, =0x30c51835                 // MMU and caches on
    msr sctlr_el2, x1
    isb
    ret

// Level 1: leaves of 1 GiB. The first has the devices, the next four what memory there may be.
.section .rodata.boot, "a"
.balign 4096
page_table:
    .quad 0x0040000000000445
    .quad 0x0000000040000741
    .quad 0x0000000080000741
    .quad 0x00000000c0000741
    .quad 0x0000000100000741
    .fill 507, 8, 0

// 64 KiB for each of four CPUs. The first one's is the boot stack.
.section .bss.boot, "aw", @nobits
.balign 16
stacks:
    .skip 0x10000
boot_stack_top:
    .skip 3 * 0x10000
    .skip 0x4000
.globl exception_stack_top
exception_stack_top:

// Into the guest and out again. What is kept of a guest is laid out as `Registers` in entry.rs says:
// 31 general registers, then pc at 248, pstate at 256, and where it came out at 264.
//
// Vector registers are not switched: these guests have none (CPACR_EL1 traps them at EL1).

.section .text.switch, "ax"

// enter_guest(registers): returns at the guest's next exit.
.globl enter_guest
enter_guest:
    stp x29, x30, [sp, #-112]!
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    mrs x1, vbar_el2
    str x1, [sp, #96]
    ldr x1, =exits
    msr vbar_el2, x1
    msr tpidr_el2, x0
    ldp x2, x3, [x0, #248]
    msr elr_el2, x2
    msr spsr_el2, x3
    ldp x2, x3, [x0, #16]
    ldp x4, x5, [x0, #32]
    ldp x6, x7, [x0, #48]
    ldp x8, x9, [x0, #64]
    ldp x10, x11, [x0, #80]
    ldp x12, x13, [x0, #96]
    ldp x14, x15, [x0, #112]
    ldp x16, x17, [x0, #128]
    ldp x18, x19, [x0, #144]
    ldp x20, x21, [x0, #160]
    ldp x22, x23, [x0, #176]
    ldp x24, x25, [x0, #192]
    ldp x26, x27, [x0, #208]
    ldp x28, x29, [x0, #224]
    ldr x30, [x0, #240]
    ldp x0, x1, [x0]
    eret

// Only the four vectors of a 64-bit guest can be taken: between them EL2 runs the lines here alone.
.balign 2048
exits:
    .skip 0x400
.set exit_kind, 0
.rept 4
    .balign 128
    stp x0, x1, [sp, #-16]!
    mov x1, #exit_kind
    b leave_guest
    .set exit_kind, exit_kind + 1
.endr
.balign 0x200
    .skip 0x200

leave_guest:
    mrs x0, tpidr_el2
    str x1, [x0, #264]
    stp x2, x3, [x0, #16]
    ldp x2, x3, [sp], #16
    stp x2, x3, [x0]
    stp x4, x5, [x0, #32]
    stp x6, x7, [x0, #48]
    stp x8, x9, [x0, #64]
    stp x10, x11, [x0, #80]
    stp x12, x13, [x0, #96]
    stp x14, x15, [x0, #112]
    stp x16, x17, [x0, #128]
    stp x18, x19, [x0, #144]
    stp x20, x21, [x0, #160]
    stp x22, x23, [x0, #176]
    stp x24, x25, [x0, #192]
    stp x26, x27, [x0, #208]
    stp x28, x29, [x0, #224]
    str x30, [x0, #240]
    mrs x2, elr_el2
    mrs x3, spsr_el2
    stp x2, x3, [x0, #248]
    ldr x1, [sp, #96]
    msr vbar_el2, x1
    isb
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp x29, x30, [sp], #112
    ret

// Exceptions that reach EL2 (Arm ARM D1.4.1): four kinds, from four places. A hypervisor puts its own
// vectors in their place while a guest runs; all that ends here was not expected.

.section .text.vectors, "ax"
.balign 2048
.globl vectors
vectors:
.set number, 0
.rept 16
    .balign 128
    ldr x1, =exception_stack_top
    mov sp, x1
    mov x0, #number
    b {report}
    .set number, number + 1
.endr
.balign 128

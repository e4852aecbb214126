# One stub of 16 bytes for each exception. All arrive with the same frame: where the processor
# pushes no error code, a zero takes its place.

.section .text.vectors, "ax"
.balign 16
.globl exception_stubs
exception_stubs:
.irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    .balign 16
    .if ((0x60227d00 >> \number) & 1) == 0
    push 0
    .endif
    push \number
    jmp exception_common
.endr

exception_common:
    cld
    mov rdi, rsp
    and rsp, -16
    call {report}
    ud2

# Another CPU wanted this one to leave its guest, and it has.
.globl kicked
kicked:
    iretq

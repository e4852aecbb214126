# Writes the number of the pass to every page of the working set, in order, forever; vCPUs take pages in
# turn. The place in a page moves on from pass to pass, so that its bytes differ in more than one word.
#
#   rbx  bytes between two pages of this vCPU
#   rbp  the end of the working set
#   r14  this vCPU's first page
#   r15  the page in hand
#   rax  where in a page it writes
    mov   rbp, r12
    shl   rbp, 12
    add   rbp, r10
    mov   rbx, rcx
    shl   rbx, 12
    mov   r14, rdx
    shl   r14, 12
    add   r14, r10
3:  inc   r13                   # a pass
    mov   eax, r13d
    and   eax, 511
    shl   eax, 3
    mov   r15, r14
4:  cmp   r15, rbp
    jae   5f
    mov   [r15 + rax], r13
    add   r15, rbx
    jmp   4b
5:  mov   eax, r13d
    out   {progress}, eax
    jmp   3b

# Rests, and counts the rests in one page a vCPU.
#
#   r14  this vCPU's page
    mov   r14, rdx
    shl   r14, 12
    add   r14, r10
3:  out   {rest}, al
    inc   r13
    mov   [r14], r13
    mov   eax, r13d
    out   {progress}, eax
    jmp   3b

# Writes the number of the pass to random pages of the working set; a pass is as many writes as the working
# set has pages. Random numbers are Marsaglia's xorshift with 13, 7, 17, begun by seed and vCPU.
#
#   r8   the random number
#   r14  where in the first page it writes
#   r15  what is left of the pass
    lea   r8, [r8 + rdx + 1]
    movabs rax, {spread}
    imul  r8, rax
    or    r8, 1                 # it must not be zero
3:  inc   r13                   # a pass
    mov   eax, r13d
    and   eax, 511
    lea   r14, [r10 + rax * 8]
    mov   r15, r12
4:  mov   rax, r8
    shl   rax, 13
    xor   r8, rax
    mov   rax, r8
    shr   rax, 7
    xor   r8, rax
    mov   rax, r8
    shl   rax, 17
    xor   r8, rax
    mov   rax, r8
    mul   r12                   # rdx = the page
    shl   rdx, 12
    mov   [r14 + rdx], r13
    dec   r15
    jnz   4b
    mov   eax, r13d
    out   {progress}, eax
    jmp   3b

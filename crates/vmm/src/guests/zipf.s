# Writes the number of the pass to pages of the working set, the page of rank r about as often as 1/r; a pass
# is as many writes as the working set has pages. An octave of ranks is drawn evenly by the upper bits of a
# random number (as in random.s), a rank within it by the lower ones, and the ranks are scattered over the
# largest power of two of pages.
#
#   r8   the random number
#   rbp  octaves: the base-2 logarithm of the pages of the working set, rounded down
#   rbx  the largest power of two of pages, less one
#   r11  an odd constant to scatter ranks with
#   r14  where in the first page it writes
#   r15  what is left of the pass
    lea   r8, [r8 + rdx + 1]
    movabs rax, {spread}
    imul  r8, rax
    or    r8, 1                 # it must not be zero
    movabs r11, {scatter}
    bsr   rbp, r12
    mov   ecx, ebp
    mov   ebx, 1
    shl   rbx, cl
    dec   rbx
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
    mul   rbp                   # rdx = the octave
    mov   ecx, edx
    mov   eax, 1
    shl   rax, cl
    dec   rax                   # as many ranks are below the octave,
    mov   rdx, r8
    and   rdx, rax              # and this one is within it
    add   rdx, rax
    imul  rdx, r11
    and   rdx, rbx
    shl   rdx, 12
    mov   [r14 + rdx], r13
    dec   r15
    jnz   4b
    mov   eax, r13d
    out   {progress}, eax
    jmp   3b

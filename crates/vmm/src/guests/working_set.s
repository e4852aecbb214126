# What all writers do first: find the working set, which is as many bytes as the word says, or half of RAM
# if that is 0, and no more than there is.
#
#   r10  the address above the reserved pages
#   r12  pages of the working set
#   r13  the number of the pass, 0
    lea   r10, [rdi + {reserved}]
    mov   r12, r9
    shr   r12, 12
    jnz   2f
    mov   r12, rsi
    shr   r12, 1
2:  sub   rsi, {reserved} >> 12
    cmp   r12, rsi
    cmova r12, rsi
    xor   r13d, r13d

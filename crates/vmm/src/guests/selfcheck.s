# Rewrites its pages over and over, and checks in each what it wrote last: see `Plan` for which pages, and
# what they hold. What it expects is in registers only. Of a page it checks two words; bytes elsewhere in it
# are for a digest to compare.
#
#   rdi  the address above the reserved pages     r9   what the page in hand must hold: count,
#   rcx  vCPUs                                    r10  place of the second word,
#   rsp  bytes between two pages of this vCPU     r11  key of the hash
#   rsi  the page in hand: address,               r12  what it will hold: likewise
#   r8   number                                   r13
#   r15  pages left to do                         r14
#   rbx, rbp  constants of the hash               rax, rdx  whatever
#
#   xmm0  the count of the hot pages, and in its upper half the complement of it
#   xmm1  the sweep's number                      xmm5  cold pages of this vCPU
#   xmm2  its position                            xmm6  hot pages
#   xmm3  the position of the check               xmm7  the seed
#   xmm4  hot pages written and not yet           xmm8  the number of this vCPU
#         paid for by a cold one                  xmm9  whatever

# `place` and `key` for `count`: the second word is any but the first, and the key is what the hash knows of
# count and seed.
.macro vellum_describe count, place, key
    mov   rax, \count
    xor   edx, edx
    mov   \place, 511
    div   \place
    lea   \place, [rdx * 8 + 8]
    movabs \key, {key}
    imul  \key, \count
    movq  rax, xmm7
    xor   \key, rax
.endm

# rax = the hash of a key and the page in hand.
.macro vellum_hash key
    mov   rax, r8
    imul  rax, rbx
    xor   rax, \key
    mov   rdx, rax
    shr   rdx, 32
    xor   rax, rdx
    imul  rax, rbp
    mov   rdx, rax
    shr   rdx, 29
    xor   rax, rdx
.endm

# Checks both words of the page in hand; a wrong one ends the guest.
.macro vellum_check
    mov   rax, [rsi]
    cmp   rax, r9
    jne   .Lvellum_wrong_count
    vellum_hash r11
    cmp   rax, [rsi + r10]
    jne   .Lvellum_wrong_hash
.endm

# Writes both words of the page in hand.
.macro vellum_write
    vellum_hash r14
    mov   [rsi], r12
    mov   [rsi + r13], rax
.endm

# Takes this vCPU's first page in hand.
.macro vellum_first
    movq  r8, xmm8
    mov   rsi, r8
    shl   rsi, 12
    add   rsi, rdi
.endm

# Takes this vCPU's next page in hand.
.macro vellum_next
    add   r8, rcx
    add   rsi, rsp
.endm

# Takes this vCPU's cold page number r8 in hand.
.macro vellum_cold
    movq  rax, xmm6
    add   r8, rax
    imul  r8, rcx
    movq  rax, xmm8
    add   r8, rax
    mov   rsi, r8
    shl   rsi, 12
    add   rsi, rdi
.endm

# Makes r12 the count of the hot pages.
.macro vellum_count
    movq  xmm0, r12
    mov   rax, r12
    not   rax
    movq  xmm9, rax
    punpcklqdq xmm0, xmm9
.endm

# The plan, as `Plan::new` makes it: rsi is the pages of RAM.
    movq  xmm7, r8
    movq  xmm8, rdx
    add   rdi, {reserved}
    mov   rax, rsi
    shr   rax, {hot_share}
    cmp   rax, {most_hot}
    jbe   2f
    mov   eax, {most_hot}
2:  xor   edx, edx
    div   rcx
    cmp   rax, {most_hot_each}
    jbe   2f
    mov   eax, {most_hot_each}
2:  test  rax, rax
    jnz   2f
    mov   eax, 1
2:  movq  xmm6, rax             # hot
    mov   r9, rax
    mov   rax, rsi
    shr   rax, 2
    sub   rsi, rax
    mov   rax, rsi
    sub   rax, {reserved} >> 12
    xor   edx, edx
    div   rcx
    sub   rax, r9
    movq  xmm5, rax             # cold
    mov   rsp, rcx
    shl   rsp, 12
    movabs rbx, {mix}
    movabs rbp, {finish}

# Count 1 to every page, and the sweep goes on with 2.
    mov   r12d, 1
    vellum_count
    mov   eax, 2
    movq  xmm1, rax
    pxor  xmm2, xmm2
    pxor  xmm3, xmm3
    pxor  xmm4, xmm4
    vellum_describe r12, r13, r14
    vellum_first
    movq  r15, xmm5
    add   r15, r9
2:  vellum_write
    vellum_next
    dec   r15
    jnz   2b

# A pass. Checks and rewrites the hot pages, and counts.
3:  movq  r9, xmm0
    movhlps xmm9, xmm0
    movq  rax, xmm9
    not   rax
    mov   r8, -1
    cmp   rax, r9
    jne   .Lvellum_wrong_count
    lea   r12, [r9 + 1]
    vellum_count
    vellum_describe r9, r10, r11
    vellum_describe r12, r13, r14
    vellum_first
    movq  r15, xmm6
2:  vellum_check
    vellum_write
    vellum_next
    dec   r15
    jnz   2b

# Checks and rewrites as many cold pages as the hot ones have paid for.
    paddq xmm4, xmm6
4:  movq  rax, xmm4
    sub   rax, {hot_per_cold}
    jb    5f
    movq  xmm4, rax
    movq  r12, xmm1
    lea   r9, [r12 - 1]
    vellum_describe r9, r10, r11
    vellum_describe r12, r13, r14
    movq  r8, xmm2
    lea   rax, [r8 + 1]
    movq  rdx, xmm5
    cmp   rax, rdx
    jb    2f
    lea   rdx, [r12 + 1]        # the sweep is through
    movq  xmm1, rdx
    xor   eax, eax
2:  movq  xmm2, rax
    vellum_cold
    vellum_check
    vellum_write
    jmp   4b

# Checks the next stretch of the cold pages: the sweep's number below its position, one less from there on.
5:  movq  r15, xmm5
    shr   r15, {stretches}
    inc   r15
6:  movq  r8, xmm3
    movq  rax, xmm2
    movq  r9, xmm1
    cmp   r8, rax
    jb    2f
    dec   r9
2:  vellum_describe r9, r10, r11
    lea   rax, [r8 + 1]
    movq  rdx, xmm5
    cmp   rax, rdx
    jb    2f
    xor   eax, eax
2:  movq  xmm3, rax
    vellum_cold
    vellum_check
    dec   r15
    jnz   6b

# The diary: a reserved page of this vCPU's own, that is stored to through one translation for a long time.
    movq  rax, xmm8
    shl   rax, 12
    movq  rdx, xmm0
    mov   [rdi + rax + ({diaries} << 12) - {reserved}], rdx
    lea   eax, [rdx - 1]
    out   {progress}, eax
    jmp   3b

# Says that in page r8 there is r13 where r12 should be, and ends.
.Lvellum_wrong_count:
    mov   r12, r9
    mov   r13, rax
    jmp   7f
.Lvellum_wrong_hash:
    mov   r12, rax
    mov   r13, [rsi + r10]
7:  lea   rsi, [rip + .Lvellum_texts]
    movq  r9, xmm8
    mov   r15d, 4
# The text at rsi, up to its zero.
8:  mov   al, [rsi]
    inc   rsi
    test  al, al
    jz    9f
    out   {console}, al
    jmp   8b
9:  test  r15d, r15d
    jz    13f
    mov   edx, 16
# The digits of r9.
15: rol   r9, 4
    mov   eax, r9d
    and   eax, 15
    cmp   eax, 10
    jb    12f
    add   eax, 0x57 - 0x30
12: add   eax, 0x30
    out   {console}, al
    dec   edx
    jnz   15b
# And the next one: the page, what should be there, what is.
    mov   r9, r8
    mov   r8, r12
    mov   r12, r13
    dec   r15d
    jmp   8b
13: mov   al, 1
    out   {end}, al
14: jmp   14b
.Lvellum_texts:
    .asciz "selfcheck: vCPU 0x"
    .asciz " page 0x"
    .asciz " expected 0x"
    .asciz " found 0x"
    .asciz "\n"

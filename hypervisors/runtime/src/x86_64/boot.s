# From a boot loader to Rust.
#
# `boot` is at 1 MiB + 32. It asks for what multiboot 1 promises: 32-bit protected mode, flat code
# and data segments of 4 GiB, paging and interrupts off, A20 on, and the image at 1 MiB. It brings
# its own stack and descriptor tables, zeroes what the file does not hold, and looks at no register.

.section .boot, "awx"
.code32
.balign 4
multiboot_header:
    .long 0x1badb002
    .long 0x00010000                    # the addresses that follow are to be used
    .long -(0x1badb002 + 0x00010000)
    .long multiboot_header, image_start, image_loaded, image_end, boot

.globl boot
boot:
    cli
    cld
    mov esp, offset boot_stack_top
    mov edi, offset image_loaded
    mov ecx, offset image_end
    sub ecx, edi
    xor eax, eax
    rep stosb

    # 4 GiB, one to one, in leaves of 2 MiB. The upper halves are zero.
    mov edi, offset page_tables
    lea eax, [edi + 0x1000 + 3]
    mov [edi], eax
    lea eax, [edi + 0x2000 + 3]
    mov [edi + 0x1000], eax
    add eax, 0x1000
    mov [edi + 0x1008], eax
    add eax, 0x1000
    mov [edi + 0x1010], eax
    add eax, 0x1000
    mov [edi + 0x1018], eax
    add edi, 0x2000
    mov eax, 0x83
    mov ecx, 2048
2:
    mov [edi], eax
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 2b

    mov ebx, 0x18
    mov ebp, offset task_state
    mov edi, offset {enter}

# The stack is this CPU's. ebx: the selector of its task state; ebp: where that is; edi: the Rust that
# it goes to.
enable:
    # The base of the task state, in the pieces that a descriptor wants, and that nobody uses it.
    mov eax, ebp
    mov [descriptors + ebx + 2], ax
    shr eax, 16
    mov [descriptors + ebx + 4], al
    mov byte ptr [descriptors + ebx + 5], 0x89
    mov [descriptors + ebx + 7], ah

    mov eax, cr4
    or eax, 0x620                       # PAE, and SSE for what the compiler makes
    mov cr4, eax
    mov eax, offset page_tables
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900                       # long mode, no-execute
    wrmsr
    mov eax, cr0
    and eax, 0x9ffffff3                 # caches, and no emulation of the FPU
    or eax, 0x80010023                  # paging, write protection, FPU, protected mode
    mov cr0, eax
    lgdt [descriptors_pointer]
    mov eax, offset long_mode
    push 0x08
    push eax
    retf

# The second CPU begins here, with its stack to be found.
another:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    cld
    mov esp, offset another_stack_top
    mov ebx, 0x30
    mov ebp, offset another_task_state
    mov edi, offset {enter_another}
    jmp enable

.code64
long_mode:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    ltr bx
    mov esp, esp
    mov edi, edi
    xor ebp, ebp
    call rdi
    ud2

# How a CPU begins that another one starts: in real mode, in a page below 1 MiB that this is copied to.
# It goes on above, in 32-bit protected mode.
.section .rodata.boot, "a"
.code16
.globl another_start, another_end
another_start:
    .byte 0xeb, 6                       # a jump over the pointer, which is at 2 therefore
    .short 0x3f
    .long descriptors
    cli
    mov ax, cs
    mov ds, ax
    lgdt [2]
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    .byte 0x66, 0xea                    # a far jump, which the assembler has no words for
    .long another
    .short 0x28
another_end:
.code64

.section .data.boot, "aw"
.balign 16
descriptors:
    .quad 0
    .quad 0x00af9b000000ffff            # 0x08: code, 64 bits
    .quad 0x00cf93000000ffff            # 0x10: data
    .quad 0x0000890000000067            # 0x18: task state, 104 bytes, available
    .quad 0
    .quad 0x00cf9b000000ffff            # 0x28: code, 32 bits
    .quad 0x0000890000000067            # 0x30: the second CPU's task state
    .quad 0
descriptors_pointer:
    .word . - descriptors - 1
    .long descriptors
    .long 0

# Only the stacks for exceptions count: the first for all, the second for a double fault, the third for
# the kick of another CPU.
.balign 16
task_state:
    .fill 36, 1, 0
    .quad exception_stack_top, double_fault_stack_top, kick_stack_top
    .fill 42, 1, 0
    .word 104
.balign 16
another_task_state:
    .fill 36, 1, 0
    .quad another_exception_stack_top, another_double_fault_stack_top, another_kick_stack_top
    .fill 42, 1, 0
    .word 104

.section .bss.boot, "aw", @nobits
.balign 4096
page_tables:
    .skip 6 * 4096
    .skip 256 * 1024
boot_stack_top:
    .skip 32 * 1024
exception_stack_top:
    .skip 32 * 1024
double_fault_stack_top:
    .skip 4096
kick_stack_top:
    .skip 256 * 1024
another_stack_top:
    .skip 32 * 1024
another_exception_stack_top:
    .skip 32 * 1024
another_double_fault_stack_top:
    .skip 4096
another_kick_stack_top:

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

    # The base of the task-state segment, in the pieces that a descriptor wants.
    mov eax, offset task_state
    mov [task_descriptor + 2], ax
    shr eax, 16
    mov [task_descriptor + 4], al
    mov [task_descriptor + 7], ah

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
    and eax, 0xfffffff3                 # no emulation of the FPU
    or eax, 0x80010023                  # paging, write protection, FPU, protected mode
    mov cr0, eax
    lgdt [descriptors_pointer]
    mov eax, offset long_mode
    push 0x08
    push eax
    retf

.code64
long_mode:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov eax, 0x18
    ltr ax
    mov esp, offset boot_stack_top
    xor ebp, ebp
    call {enter}
    ud2

.section .data.boot, "aw"
.balign 16
descriptors:
    .quad 0
    .quad 0x00af9b000000ffff            # 0x08: code, 64 bits
    .quad 0x00cf93000000ffff            # 0x10: data
task_descriptor:                        # 0x18: task state, 104 bytes, available
    .quad 0x0000890000000067
    .quad 0
descriptors_pointer:
    .word . - descriptors - 1
    .long descriptors
    .long 0

# Only the stacks for exceptions count: the first for all, the second for a double fault.
.balign 16
task_state:
    .fill 36, 1, 0
    .quad exception_stack_top, double_fault_stack_top
    .fill 50, 1, 0
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

# Reads and writes registers through VIRTIO_PCI_CAP_PCI_CFG (virtio 1.3, 4.1.4.9) of the entropy device at 00:01.0: the one part
# of configuration space whose reading does something.
#include "guest.inc"
.set FUNCTION, PCI_ECAM + (1 << 15)
_start:
    movl $stack_top, %esp
    cmpl $0x10441af4, FUNCTION
    je 1f
    say "cfg: no device"
    finish 1
1:  movzbl FUNCTION + 0x34, %edi
2:  testl %edi, %edi
    jz 9f
    leal FUNCTION(%edi), %esi
    cmpb $0x09, (%esi)
    jne 3f
    cmpb $5, 3(%esi)
    je 4f
3:  movzbl 1(%esi), %edi
    jmp 2b
9:  say "cfg: no window"
    finish 1
4:  movl 16(%esi), %eax
    expect %eax, 0, "cfg: data before"
    movb $0, 4(%esi)
    movl $0x12, 8(%esi)
    movl $2, 12(%esi)
    movw 16(%esi), %ax
    expect %ax, 1, "cfg: num_queues is not 1"
    movl $0x14, 8(%esi)
    movl $1, 12(%esi)
    movb $3, 16(%esi)
    movb 16(%esi), %al
    expect %al, 3, "cfg: status"
    movl FUNCTION, %eax
    expect %eax, 0x10441af4, "cfg: id"
    movl FUNCTION + 0x1000, %eax
    expect %eax, 0xffffffff, "cfg: function 1"
    say "cfg: all well"
    finish 0

//go:build !purego

#include "textflag.h"

// Shuffles every three bytes a, b, c to b a c b, so that each six bits are in one word.
DATA spread<>+0(SB)/8, $0x0405030401020001
DATA spread<>+8(SB)/8, $0x0a0b090a07080607
GLOBL spread<>(SB), RODATA|NOPTR, $16

// The offset from six bits to their character. The index is 13 for values below 26 (A
// to Z), else the amount above 51 (0 for a to z, then the digits, + and /).
DATA ascii<>+0(SB)/8, $0xfcfcfcfcfcfcfc47
DATA ascii<>+8(SB)/8, $0x000041f0edfcfcfc
GLOBL ascii<>(SB), RODATA|NOPTR, $16

DATA sixes<>+0(SB)/8, $0x0fc0fc000fc0fc00 // the first and third six bits
DATA sixes<>+8(SB)/8, $0x0400004004000040 // their shifts right, as factors
DATA sixes<>+16(SB)/8, $0x003f03f0003f03f0 // the second and fourth
DATA sixes<>+24(SB)/8, $0x0100001001000010 // their shifts left
DATA sixes<>+32(SB)/8, $0x3333333333333333 // 51
DATA sixes<>+40(SB)/8, $0x1a1a1a1a1a1a1a1a // 26
DATA sixes<>+48(SB)/8, $0x0d0d0d0d0d0d0d0d // 13
GLOBL sixes<>(SB), RODATA|NOPTR, $56

// func encode24(dst *byte, src unsafe.Pointer, n int)
TEXT ·encode24(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	LEAQ sixes<>(SB), AX
	VPBROADCASTQ 0(AX), Y8
	VPBROADCASTQ 8(AX), Y9
	VPBROADCASTQ 16(AX), Y10
	VPBROADCASTQ 24(AX), Y11
	VPBROADCASTQ 32(AX), Y12
	VPBROADCASTQ 40(AX), Y13
	VPBROADCASTQ 48(AX), Y14
	VBROADCASTI128 spread<>(SB), Y6
	VBROADCASTI128 ascii<>(SB), Y7

next:
	SUBQ $1, CX
	JLT done
	VMOVDQU (SI), X0 // twelve bytes in each half
	VINSERTI128 $1, 12(SI), Y0, Y0
	VPSHUFB Y6, Y0, Y0
	VPAND Y8, Y0, Y1
	VPMULHUW Y9, Y1, Y1
	VPAND Y10, Y0, Y0
	VPMULLW Y11, Y0, Y0
	VPOR Y1, Y0, Y0
	VPSUBUSB Y12, Y0, Y1
	VPCMPGTB Y0, Y13, Y2
	VPAND Y14, Y2, Y2
	VPOR Y2, Y1, Y1
	VPSHUFB Y1, Y7, Y1
	VPADDB Y1, Y0, Y0
	VMOVDQU Y0, (DI)
	ADDQ $24, SI
	ADDQ $32, DI
	JMP next

done:
	VZEROUPPER
	RET

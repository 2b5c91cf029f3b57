//go:build !purego

#include "textflag.h"

// The kernel of AppendFloats. It works in two steps. The first step finds the commas
// in the next half kilobyte. So no value has to wait for the end of the previous
// value, and the second step handles four values at a time. Their digits,
// right-aligned in sixteen bytes each, become four float64 integers, are scaled by
// ±10⁻ⁿ, and are rounded to float32 unless they are too close to half-way, like in
// narrow in floats.go. For more than sixteen digits see LONG.

// Sixteen bytes from byte n on: a mask of the last n of sixteen.
DATA masks<>+0(SB)/8, $0
DATA masks<>+8(SB)/8, $0
DATA masks<>+16(SB)/8, $-1
DATA masks<>+24(SB)/8, $-1
GLOBL masks<>(SB), RODATA|NOPTR, $32

#define ZEROS  Y15 // '0'
#define COMMAS Y14 // ','
#define EXTRA  Y13 // the digits beyond the sixteenth, of all four
#define NINES  Y12 // added to a byte above 9, reaches its high bit
#define TENS   Y11 // 10, 1 as bytes
#define HUNDREDS Y10 // 100, 1 as words
#define TENTHOUSANDS Y9 // 10000, 1 as words
#define EIGHT  Y8 // 10⁸ as float64
#define CENTRE Y7 // takes the unsure bits below those of MARGIN
#define DROPPED Y6 // the bits that a float32 does not have
#define MARGIN Y3

DATA consts<>+0(SB)/8, $0x3030303030303030
DATA consts<>+8(SB)/8, $0x2c2c2c2c2c2c2c2c
DATA consts<>+16(SB)/8, $0x7676767676767676
DATA consts<>+24(SB)/8, $0x010a010a010a010a
DATA consts<>+32(SB)/8, $0x0001006400010064
DATA consts<>+40(SB)/8, $0x0001271000012710
DATA consts<>+48(SB)/8, $100000000.0
DATA consts<>+56(SB)/8, $-268427264 // 8192 - 1<<28
DATA consts<>+64(SB)/8, $0x1fffffff // 1<<29 - 1
DATA consts<>+72(SB)/8, $16384      // 2*8192
GLOBL consts<>(SB), RODATA|NOPTR, $80

// The even doublewords, then the odd ones.
DATA evenodd<>+0(SB)/8, $0x0000000200000000
DATA evenodd<>+8(SB)/8, $0x0000000600000004
DATA evenodd<>+16(SB)/8, $0x0000000300000001
DATA evenodd<>+24(SB)/8, $0x0000000700000005
GLOBL evenodd<>(SB), RODATA|NOPTR, $32

// NOTE writes the index of the lowest bit in AX to BX+o, and clears the bit.
#define NOTE(o) \
	TZCNTQ AX, DX; \
	BLSRQ AX, AX; \
	ADDL CX, DX; \
	MOVL DX, o(BX)

// VALUE reads the value at SI+R8, whose comma has its index at BX+i. It puts the
// digits into x as bytes, with zeros before them, and moves R8 after the comma. In DX
// it leaves the index of the scale minus one: the number of digits minus one, plus 32
// for a minus sign.
#define VALUE(i, x, long, done) \
	MOVL i(BX), AX; \
	LEAQ (SI)(R8*1), CX; \
	CMPB -1(CX)(R10*1), R11; \
	JNE stop; \
	XORL DX, DX; \
	CMPB (CX)(R10*1), $'-'; \
	SETEQ DL; \
	ADDQ R10, R8; \
	ADDQ DX, R8; \
	CMPW (SI)(R8*1), $0x2e30; \ // "0."
	JNE stop; \
	MOVL AX, CX; \
	SUBL R8, CX; \
	SUBL $3, CX; \ // the digits, less one
	LEAQ 1(AX), R8; \
	CMPL CX, $16; \
	JAE long; \ // also if there are no digits
	VMOVDQU -16(SI)(AX*1), x; \
	VPSUBB X15, x, x; \
	VPAND 1(R9)(CX*1), x, x; \
done: \
	SHLL $5, DX; \
	ADDL CX, DX

// LONG is the part of VALUE for 17 to 32 digits. It uses the first sixteen digits: the
// number is then up to 10⁻¹⁶ larger. That is less than 8192 units in the last place
// of a float64 of 0.0001 or more, and the margin has that width. Of the other digits
// it only checks that they are digits.
#define LONG(x, long, done) \
long: \
	SUBL $16, CX; \ // the digits beyond, less one
	CMPL CX, $16; \
	JAE stop; \
	VMOVDQU -16(SI)(AX*1), x; \
	VPSUBB X15, x, x; \
	VPAND 1(R9)(CX*1), x, x; \
	VPMAXUB x, X13, X13; \
	SUBL CX, AX; \
	CMPL -17(SI)(AX*1), $0x30303030; \ // "0000"
	JEQ stop; \
	VMOVDQU -17(SI)(AX*1), x; \
	VPSUBB X15, x, x; \
	MOVL $15, CX; \
	JMP done

// func floats4(dst *float32, room int, src *byte, n, p, gap int) (count, end int)
TEXT ·floats4(SB), 0, $2128-64
	MOVQ dst+0(FP), DI
	MOVQ room+8(FP), AX
	LEAQ -16(DI)(AX*4), AX
	MOVQ AX, last-8(SP) // the last place for four values
	MOVQ src+16(FP), SI
	MOVQ p+32(FP), R8
	MOVQ gap+40(FP), R10
	MOVL $',', R11 // the byte before the minus sign or the 0
	MOVL $' ', AX
	TESTQ R10, R10
	CMOVLNE AX, R11
	LEAQ masks<>(SB), R9
	LEAQ ·signedScale(SB), R13
	LEAQ consts<>(SB), AX
	VPBROADCASTQ 0(AX), ZEROS
	VPBROADCASTQ 8(AX), COMMAS
	VPBROADCASTQ 16(AX), NINES
	VPBROADCASTQ 24(AX), TENS
	VPBROADCASTQ 32(AX), HUNDREDS
	VPBROADCASTQ 40(AX), TENTHOUSANDS
	VPBROADCASTQ 48(AX), EIGHT
	VPBROADCASTQ 56(AX), CENTRE
	VPBROADCASTQ 64(AX), DROPPED
	VPBROADCASTQ 72(AX), MARGIN

commas:
	// Eight blocks of 64 bytes hold at most 512 commas. The indexes are written in
	// groups of eight, so up to seven after the last one are not valid.
	LEAQ notes-2120(SP), BX
	MOVQ R8, CX
	LEAQ 512(R8), R12
block:
	LEAQ 72(CX), AX // VALUE reads some bytes ahead
	CMPQ AX, n+24(FP)
	JGT noted
	VPCMPEQB (SI)(CX*1), COMMAS, Y0
	VPCMPEQB 32(SI)(CX*1), COMMAS, Y1
	VPMOVMSKB Y0, AX
	VPMOVMSKB Y1, DX
	SHLQ $32, DX
	ORQ DX, AX
	POPCNTQ AX, R14
	LEAQ (BX)(R14*4), R14
note:
	NOTE(0)
	NOTE(4)
	NOTE(8)
	NOTE(12)
	NOTE(16)
	NOTE(20)
	NOTE(24)
	NOTE(28)
	ADDQ $32, BX
	TESTQ AX, AX
	JNE note
	MOVQ R14, BX
	ADDQ $64, CX
	CMPQ CX, R12
	JLT block
noted:
	LEAQ -16(BX), R12 // the last place for four notes
	LEAQ notes-2120(SP), BX
	MOVQ R8, R14 // the first value that is not written yet
	CMPQ BX, R12
	JGT stop

four:
	CMPQ DI, last-8(SP)
	JGT stop
	VPXOR EXTRA, EXTRA, EXTRA
	VALUE(0, X0, long0, done0)
	VMOVSD 8(R13)(DX*8), X4
	VALUE(4, X1, long1, done1)
	VMOVHPD 8(R13)(DX*8), X4, X4
	VALUE(8, X2, long2, done2)
	VMOVSD 8(R13)(DX*8), X5
	VINSERTI128 $1, X2, Y0, Y0
	VALUE(12, X2, long3, done3)
	VMOVHPD 8(R13)(DX*8), X5, X5
	VINSERTI128 $1, X2, Y1, Y1
	VINSERTF128 $1, X5, Y4, Y4

	// Check that they are digits.
	VPMAXUB Y0, Y1, Y2
	VPMAXUB Y2, EXTRA, Y2
	VPADDUSB NINES, Y2, Y2
	VPMOVMSKB Y2, AX
	TESTL AX, AX
	JNE stop

	// Combine pairs, fours and eights: the high and the low eight of each value.
	VPMADDUBSW TENS, Y0, Y0
	VPMADDUBSW TENS, Y1, Y1
	VPMADDWD HUNDREDS, Y0, Y0
	VPMADDWD HUNDREDS, Y1, Y1
	VPACKUSDW Y1, Y0, Y0
	VPMADDWD TENTHOUSANDS, Y0, Y0
	VMOVDQU evenodd<>(SB), Y1
	VPERMD Y0, Y1, Y0
	VEXTRACTI128 $1, Y0, X1
	VCVTDQ2PD X0, Y0
	VCVTDQ2PD X1, Y1
	VMULPD EIGHT, Y0, Y0
	VADDPD Y1, Y0, Y0
	VMULPD Y4, Y0, Y0

	// Check that the direction of rounding is certain.
	VPADDQ CENTRE, Y0, Y1
	VPAND DROPPED, Y1, Y1
	VPCMPGTQ MARGIN, Y1, Y1
	VMOVMSKPD Y1, AX
	CMPL AX, $15
	JNE stop

	VCVTPD2PSY Y0, X0
	VMOVUPS X0, (DI)
	MOVQ R8, R14
	ADDQ $16, DI
	ADDQ $16, BX
	CMPQ BX, R12
	JLE four
	JMP commas

stop:
	VZEROUPPER
	MOVQ R14, end+56(FP)
	SUBQ dst+0(FP), DI
	SHRQ $2, DI
	MOVQ DI, count+48(FP)
	RET

LONG(X0, long0, done0)
LONG(X1, long1, done1)
LONG(X2, long2, done2)
LONG(X2, long3, done3)

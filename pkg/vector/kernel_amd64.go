//go:build !purego

package vector

import "unsafe"

// haveKernels reports whether the processor has what the kernels use: AVX2 with
// the instructions that came with it, and an operating system that saves the
// wide registers.
func haveKernels() bool {
	const (
		popcnt, osxsave, avx = 1 << 23, 1 << 27, 1 << 28 // leaf 1, ecx
		bmi1, avx2           = 1 << 3, 1 << 5            // leaf 7, ebx
		sse, ymm             = 1 << 1, 1 << 2            // xcr0
	)
	if leaves, _, _ := cpuid(0); leaves < 7 {
		return false
	}
	if _, _, c := cpuid(1); c&(popcnt|osxsave|avx) != popcnt|osxsave|avx {
		return false
	}
	if xgetbv()&(sse|ymm) != sse|ymm {
		return false
	}
	_, b, _ := cpuid(7)
	return b&(bmi1|avx2) == bmi1|avx2
}

// cpuid returns the registers of a leaf, subleaf 0.
func cpuid(leaf uint32) (a, b, c uint32)

// xgetbv returns the low half of XCR0: the registers that the system saves.
func xgetbv() uint32

// floats4 reads values from src+p in groups of four. n is the number of bytes at
// src, room the number of values that dst can hold. Each value must have exactly
// this form: a comma (before p for the first value), a blank if gap is 1, an
// optional minus sign, 0., 1 to 32 digits, and then the comma of the next value.
// floats4 returns the number of values written and the index after the comma
// that follows the last one. It stops if one of four values has another form, or
// is too close to half-way between two float32s to be rounded, or at the end of
// room or src.
//
// p is at least 16 and less than n, n is below 1<<31, and gap is 0 or 1. floats4
// writes nothing after the values that it counts, and reads nothing outside src.
//
//go:noescape
func floats4(dst *float32, room int, src *byte, n, p, gap int) (count, end int)

// encode24 encodes n times 24 bytes as 32 characters of base64. It reads four
// bytes after the last ones.
//
//go:noescape
func encode24(dst *byte, src unsafe.Pointer, n int)

//go:build !purego

package vector

import "unsafe"

// haveKernels reports whether the processor has what the kernels use: AVX2 and
// the instructions that came with it, and an operating system that keeps the
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

// cpuid asks the processor for a leaf, subleaf 0.
func cpuid(leaf uint32) (a, b, c uint32)

// xgetbv returns the low half of XCR0, the registers that are kept.
func xgetbv() uint32

// floats4 reads values at src+p in fours, n being the bytes at src and room the
// values that dst holds. Each one is, exactly: a comma (which is before p for
// the first), a blank if gap is 1, a minus or none, 0., 1 to 32 digits; then the
// next one's comma. It returns how many it wrote and the place behind the comma
// of the last one, and stops where four values are not of that form, or one of
// them is so close to half-way between two float32s that it cannot tell, or where
// room or src comes to its end.
//
// p is at least 16, less than n, and n below 1<<31; gap is 0 or 1. It writes
// nothing beyond the values that it counts, and reads nothing outside src.
//
//go:noescape
func floats4(dst *float32, room int, src *byte, n, p, gap int) (count, end int)

// encode24 writes n times 24 bytes as 32 characters of base64. It reads four bytes
// beyond the last ones.
//
//go:noescape
func encode24(dst *byte, src unsafe.Pointer, n int)

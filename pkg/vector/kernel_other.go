//go:build !amd64 || purego

package vector

import "unsafe"

func haveKernels() bool { return false }

func floats4(dst *float32, room int, src *byte, n, p, gap int) (count, end int) {
	panic("no kernel for this processor")
}

func encode24(dst *byte, src unsafe.Pointer, n int) { panic("no kernel for this processor") }

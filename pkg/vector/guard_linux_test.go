package vector

import (
	"os"
	"syscall"
	"testing"
	"unsafe"
)

// fence returns a page of memory between two pages that cannot be accessed.
func fence(t *testing.T) []byte {
	size := os.Getpagesize()
	m, err := syscall.Mmap(-1, 0, 3*size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(m) })
	for _, side := range [][]byte{m[:size], m[2*size:]} {
		if err := syscall.Mprotect(side, syscall.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	return m[size : 2*size : 2*size]
}

// A read outside of the given memory crashes the test.
func TestReadsInside(t *testing.T) {
	page := fence(t)
	eachWay(t, func(t *testing.T) {
		for _, bits := range []int{32, 64} {
			full := array(1, 60, bits, ",")
			want, _, err := AppendFloats(nil, full)
			if err != nil {
				t.Fatal(err)
			}
			for n := range len(full) + 1 {
				for _, src := range [][]byte{page[:n:n], page[len(page)-n:]} {
					copy(src, full)
					got, _, err := AppendFloats(nil, src)
					if n < len(full) && err == nil || n == len(full) && !same(got, want) {
						t.Fatalf("%s: got %v, %v", src, got, err)
					}
				}
			}
			for n := range want {
				// The values are placed at the end of the page, then their text is.
				v := unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(page[len(page)-4*n:]))), n)
				copy(v, want)
				text := AppendBase64(nil, v)
				src := page[len(page)-len(text):]
				copy(src, text)
				if got, err := DecodeBase64(nil, src); err != nil || !same(got, want[:n]) {
					t.Fatalf("%s: got %v, %v", src, got, err)
				}
			}
		}
	})
}

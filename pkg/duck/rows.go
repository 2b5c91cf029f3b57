package duck

import (
	"strings"
	"unsafe"

	"github.com/duckdb/duckdb-go/v2/mapping"
)

// A Rows iterates over the rows of a result. Call Next before the first row. Its
// methods read the values in DuckDB's memory, so the type of a column must be
// the type of the method.
type Rows struct {
	result  mapping.Result
	chunk   mapping.DataChunk
	columns []column
	row, n  int
}

// A column is the data of one column in the present data chunk.
type column struct {
	vector   mapping.Vector
	data     unsafe.Pointer
	validity unsafe.Pointer // nil if no value is NULL

	values unsafe.Pointer // inside the arrays of a FLOAT[n] column; nil until they are read
	holes  unsafe.Pointer // the validity of values
}

// Next moves to the next row, and reports whether there is one.
func (r *Rows) Next() bool {
	if r.row++; r.row < r.n {
		return true
	}
	if r.chunk.Ptr != nil {
		mapping.DestroyDataChunk(&r.chunk)
	}
	r.chunk = mapping.FetchChunk(r.result)
	if r.chunk.Ptr == nil {
		r.n = 0
		return false
	}
	r.row, r.n = 0, int(mapping.DataChunkGetSize(r.chunk))
	for i := range r.columns {
		v := mapping.DataChunkGetVector(r.chunk, mapping.IdxT(i))
		r.columns[i] = column{vector: v, data: mapping.VectorGetData(v), validity: mapping.VectorGetValidity(v)}
	}
	return r.n > 0
}

// Close frees the result.
func (r *Rows) Close() {
	if r.chunk.Ptr != nil {
		mapping.DestroyDataChunk(&r.chunk)
	}
	mapping.DestroyResult(&r.result)
}

func (r *Rows) null(col int) bool { return unset(r.columns[col].validity, r.row) }

// unset reports whether the value at i is NULL.
func unset(validity unsafe.Pointer, i int) bool {
	return validity != nil && *(*uint64)(unsafe.Add(validity, i/64*8))&(1<<(i%64)) == 0
}

// Int returns the value of a BIGINT column, 0 if it is NULL.
func (r *Rows) Int(col int) int64 {
	if r.null(col) {
		return 0
	}
	return *(*int64)(unsafe.Add(r.columns[col].data, r.row*8))
}

// A Uint128 is a UHUGEINT in DuckDB's memory layout: the low half, then the high
// half.
type Uint128 [2]uint64

// Uint128 returns the value of a UHUGEINT column, which must not be NULL.
func (r *Rows) Uint128(col int) Uint128 {
	return *(*Uint128)(unsafe.Add(r.columns[col].data, r.row*16))
}

// Bool returns the value of a BOOLEAN column, false if it is NULL.
func (r *Rows) Bool(col int) bool {
	return !r.null(col) && *(*bool)(unsafe.Add(r.columns[col].data, r.row))
}

// Borrow returns the value of a VARCHAR column, "" if it is NULL. The string is
// valid until the next call of Next or Close.
//
// A value is a duckdb_string_t of 16 bytes: the length in 4 bytes, then up to 12
// bytes of text, or the first 4 bytes of the text and a pointer to the whole
// text.
func (r *Rows) Borrow(col int) string {
	if r.null(col) {
		return ""
	}
	p := unsafe.Add(r.columns[col].data, r.row*16)
	n := *(*uint32)(p)
	if n <= 12 {
		return unsafe.String((*byte)(unsafe.Add(p, 4)), n)
	}
	return unsafe.String(*(**byte)(unsafe.Add(p, 8)), n)
}

// Text returns a copy of the value of a VARCHAR column, "" if it is NULL.
func (r *Rows) Text(col int) string { return strings.Clone(r.Borrow(col)) }

// Floats copies the value of a FLOAT[n] column to dst, whose length must be n.
func (r *Rows) Floats(col int, dst []float32) {
	v, _ := r.BorrowFloats(col, len(dst))
	copy(dst, v)
}

// BorrowFloats returns the value of a FLOAT[n] column. If the array or one of its
// values is NULL, whole is false. The slice is valid until the next call of Next or
// Close.
func (r *Rows) BorrowFloats(col, n int) (v []float32, whole bool) {
	if r.null(col) {
		return nil, false
	}
	c := &r.columns[col]
	if c.values == nil {
		child := mapping.ArrayVectorGetChild(c.vector)
		c.values, c.holes = mapping.VectorGetData(child), mapping.VectorGetValidity(child)
	}
	first := r.row * n
	for i := first; c.holes != nil && i < first+n; i++ {
		if unset(c.holes, i) {
			return nil, false
		}
	}
	return unsafe.Slice((*float32)(unsafe.Add(c.values, 4*first)), n), true
}

package duck

import (
	"unsafe"

	"github.com/duckdb/duckdb-go/v2/mapping"
)

// An Appender writes rows inside the connection's transaction, one data chunk at
// a time, without converting values. Set all columns of a row, then call Next.
// After the last row call Close. After an error the appender is closed, and the
// rows that DuckDB has not taken yet are lost.
type Appender struct {
	a       mapping.Appender
	chunk   mapping.DataChunk
	columns []cell
	n, size int
	pushed  int // data chunks since the last flush
	flush   int // after so many data chunks, they go to the statement; 0 is at the end
}

// flushEvery is how many data chunks an Inserter collects: two of the 2048 rows of a
// row group, so that two cores insert them.
const flushEvery = 2

type cell struct {
	vector mapping.Vector
	array  bool
	data   unsafe.Pointer // the values; for FLOAT[n], the values inside the arrays
}

// A Type is the type of an appender's column.
type Type struct {
	id     mapping.Type
	length int // length of an array
}

// These types have a Set method.
var (
	Varchar  = Type{id: mapping.TypeVarchar}
	BigInt   = Type{id: mapping.TypeBigInt}
	UHugeInt = Type{id: mapping.TypeUHugeInt}
)

// FloatArray is the type FLOAT[n].
func FloatArray(n int) Type { return Type{mapping.TypeArray, n} }

func (t Type) logical() mapping.LogicalType {
	if t.id != mapping.TypeArray {
		return mapping.CreateLogicalType(t.id)
	}
	float := mapping.CreateLogicalType(mapping.TypeFloat)
	defer mapping.DestroyLogicalType(&float)
	return mapping.CreateArrayType(float, mapping.IdxT(t.length))
}

// Appender opens an appender on a table in the schema main of a catalog. types
// are the types of the table's columns, or types that DuckDB casts to them.
func (c *Conn) Appender(catalog, table string, types ...Type) (*Appender, error) {
	return newAppender(types, func(a *mapping.Appender, _ []mapping.LogicalType) mapping.State {
		return mapping.AppenderCreateExt(c.c, catalog, "main", table, a)
	})
}

// Inserter opens an appender. Its rows go to the statement insert, some thousands at
// a time. The statement reads them from a table called appended. The columns of that
// table have the given names and types. Such an INSERT uses all cores.
func (c *Conn) Inserter(insert string, names []string, types ...Type) (*Appender, error) {
	a, err := newAppender(types, func(a *mapping.Appender, logical []mapping.LogicalType) mapping.State {
		return mapping.AppenderCreateQuery(c.c, insert, logical, "appended", names, a)
	})
	if err == nil {
		a.flush = flushEvery
	}
	return a, err
}

func newAppender(types []Type, create func(*mapping.Appender, []mapping.LogicalType) mapping.State) (*Appender, error) {
	a := &Appender{size: int(mapping.VectorSize()), columns: make([]cell, len(types))}
	logical := make([]mapping.LogicalType, len(types))
	for i, t := range types {
		a.columns[i].array = t.id == mapping.TypeArray
		logical[i] = t.logical()
		defer mapping.DestroyLogicalType(&logical[i])
	}
	if create(&a.a, logical) == mapping.StateError {
		return nil, a.fail()
	}
	a.chunk = mapping.CreateDataChunk(logical)
	a.refresh()
	return a, nil
}

// refresh gets the addresses of the columns' memory.
func (a *Appender) refresh() {
	for i := range a.columns {
		v := mapping.DataChunkGetVector(a.chunk, mapping.IdxT(i))
		a.columns[i].vector = v
		if a.columns[i].array {
			v = mapping.ArrayVectorGetChild(v)
		}
		a.columns[i].data = mapping.VectorGetData(v)
	}
}

func (a *Appender) fail() error {
	err := appenderError(a.a)
	a.destroy()
	return err
}

// destroy frees the memory. Rows that were not pushed are lost.
func (a *Appender) destroy() {
	mapping.AppenderClear(a.a)
	mapping.AppenderDestroy(&a.a)
	if a.chunk.Ptr != nil {
		mapping.DestroyDataChunk(&a.chunk)
	}
}

// SetInt sets a BIGINT column.
func (a *Appender) SetInt(col int, v int64) {
	*(*int64)(unsafe.Add(a.columns[col].data, a.n*8)) = v
}

// SetUint128 sets a UHUGEINT column.
func (a *Appender) SetUint128(col int, v Uint128) {
	*(*Uint128)(unsafe.Add(a.columns[col].data, a.n*16)) = v
}

// SetText sets a VARCHAR column to a copy of v.
func (a *Appender) SetText(col int, v string) {
	mapping.VectorAssignStringElement(a.columns[col].vector, mapping.IdxT(a.n), v)
}

// SetNull sets a column of any type to NULL.
func (a *Appender) SetNull(col int) {
	v := a.columns[col].vector
	mapping.VectorEnsureValidityWritable(v)
	mapping.ValiditySetRowInvalid(mapping.VectorGetValidity(v), mapping.IdxT(a.n))
}

// SetFloats sets a FLOAT[n] column to a copy of v, whose length must be n.
func (a *Appender) SetFloats(col int, v []float32) {
	copy(unsafe.Slice((*float32)(unsafe.Add(a.columns[col].data, a.n*len(v)*4)), len(v)), v)
}

// Next finishes a row.
func (a *Appender) Next() error {
	if a.n++; a.n < a.size {
		return nil
	}
	return a.push()
}

func (a *Appender) push() error {
	mapping.DataChunkSetSize(a.chunk, mapping.IdxT(a.n))
	if mapping.AppendDataChunk(a.a, a.chunk) == mapping.StateError {
		return a.fail()
	}
	if a.pushed++; a.pushed == a.flush {
		if mapping.AppenderFlush(a.a) == mapping.StateError {
			return a.fail()
		}
		a.pushed = 0
	}
	mapping.DataChunkReset(a.chunk)
	a.refresh()
	a.n = 0
	return nil
}

// Close writes the remaining rows and frees the appender.
func (a *Appender) Close() error {
	if a.n > 0 {
		if err := a.push(); err != nil {
			return err
		}
	}
	if mapping.AppenderFlush(a.a) == mapping.StateError {
		return a.fail()
	}
	a.destroy()
	return nil
}

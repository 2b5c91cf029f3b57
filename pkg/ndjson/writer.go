package ndjson

import "io"

const flushSize = 64 << 10

// A Writer collects lines and writes them in pieces of about 64 KiB. After the
// first error, every later call returns that error and writes nothing.
type Writer struct {
	w   io.Writer
	buf []byte
	err error
}

// NewWriter returns a writer of lines to w. Flush must be called at the end.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w, buf: make([]byte, 0, 2*flushSize)}
}

// Begin returns the writer's buffer. Append a line to it, and do not change what
// it already holds. The line is written only if it is given to End.
//
//	b := w.Begin()
//	b = append(b, `{"key":`...)
//	…
//	err := w.End(b)
func (w *Writer) Begin() []byte { return w.buf }

// End takes the slice of Begin, with one whole line appended, and adds the line
// end.
func (w *Writer) End(b []byte) error {
	w.buf = append(b, '\n')
	if len(w.buf) < flushSize {
		return w.err
	}
	return w.Flush()
}

// Write writes one line, which must not contain a line end.
func (w *Writer) Write(line []byte) error { return w.End(append(w.buf, line...)) }

// Encode writes v as one line, encoded by Marshal.
func (w *Writer) Encode(v any) error {
	line, err := Marshal(v)
	if err != nil {
		return err
	}
	return w.Write(line)
}

// Flush writes the collected lines.
func (w *Writer) Flush() error {
	if w.err == nil && len(w.buf) > 0 {
		_, w.err = w.w.Write(w.buf)
	}
	w.buf = w.buf[:0]
	return w.err
}

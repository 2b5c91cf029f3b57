// Package ndjson reads and writes newline-delimited JSON: one object a line, in
// UTF-8, with errors that name their line. It is strict if leniency would lose
// or change data. It works on raw tokens, so that a filter can check a string
// and copy it without decoding it.
package ndjson

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"gbatch/pkg/exit"
)

// MaxLine is the longest line in bytes, without its line end. A reader refuses a
// longer line by its number, so that it does not run out of memory.
const MaxLine = 16 << 20

const (
	firstBuffer = 128 << 10
	lastBuffer  = MaxLine + len(bom) + len("\r\n")
	bom         = "\xef\xbb\xbf"
)

// A LineError says which line of the input is wrong. Its exit code is 7: input
// cut short or malformed.
type LineError struct {
	File string // "" if the input has no name
	Line int    // counts all lines of the file, from 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("%s: %v", e.place(), e.Err) }
func (e *LineError) Unwrap() error { return e.Err }
func (e *LineError) ExitCode() int { return exit.Malformed }

func (e *LineError) place() string {
	if e.File == "" {
		return fmt.Sprintf("line %d", e.Line)
	}
	return fmt.Sprintf("%s:%d", e.File, e.Line)
}

// Files is a stream of several files. Read returns io.EOF at the end of each file.
type Files interface {
	io.Reader
	// FileName is the name of the present file in errors. It is "" if the stream is
	// one file without a name.
	FileName() string
	// NextFile makes the next file the present one. It returns false if there is none.
	NextFile() bool
}

// A Reader splits a stream into lines. It skips blank lines and a byte order
// mark at the start, accepts CRLF for LF, and accepts a last line without LF. If the
// stream is [Files], this is true for each file. Its buffer grows to the longest line
// seen, at most to MaxLine.
type Reader struct {
	r          io.Reader
	buf        []byte
	start, end int   // the bytes not returned yet are buf[start:end]
	searched   int   // there is no LF in buf[start:searched]
	next       int   // index of the LF of the line at start; -1 if not found yet
	line       int   // number of the line returned last
	skipped    int   // blank lines between that line and start
	begun      bool  // the reader is past the place of the byte order mark
	err        error // the first error from r, io.EOF included

	several Files // r, if it is several files
	files   []file
}

// A file is a file of the stream that has begun.
type file struct {
	name   string
	before int // number of the last line before the file
}

// NewReader returns a reader of the lines of r. It reads ahead.
func NewReader(r io.Reader) *Reader {
	l := &Reader{r: r, buf: make([]byte, firstBuffer), next: -1}
	if l.several, _ = r.(Files); l.several != nil {
		l.files = append(l.files, file{name: l.several.FileName()})
	}
	return l
}

// Next returns the next line that is not blank, without its line end. The slice
// is valid until the next call of Next. The error is io.EOF at the end of the
// stream, and a *LineError for a line longer than MaxLine. An error of the
// underlying reader is returned unchanged; an incomplete line before it is not
// returned. Every later call returns the same error.
func (r *Reader) Next() ([]byte, error) {
	for !r.find() {
		switch {
		case r.err == nil:
			r.fill()
		case r.err != io.EOF || !r.nextFile():
			return nil, r.err
		}
	}
	line := r.buf[r.start:r.next]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	r.line += r.skipped + 1
	r.skipped = 0
	if len(line) > MaxLine {
		r.tooLong(r.line)
		return nil, r.err
	}
	r.start = min(r.next+1, r.end)
	r.searched, r.next = r.start, -1
	return line, nil
}

// nextFile begins the next file of the stream, if there is one.
func (r *Reader) nextFile() bool {
	if r.several == nil || !r.several.NextFile() {
		return false
	}
	r.line, r.skipped = r.line+r.skipped, 0
	r.files = append(r.files, file{r.several.FileName(), r.line})
	r.start, r.end, r.searched, r.next, r.begun, r.err = 0, 0, 0, -1, false, nil
	return true
}

// Line is the number of the line that Next returned last. It counts blank lines
// and the lines of earlier files, and the first line is 1.
func (r *Reader) Line() int { return r.line }

// Place says where a line is, by its number: "line 12", or "chunks.ndjson:12" if its
// file has a name.
func (r *Reader) Place(line int) string { return r.at(line, nil).place() }

// Buffered reports whether Next would return without reading from the stream. If
// it would not, a filter flushes its output, so that the lines of a slow
// producer are not delayed. The line that Next returned last stays valid.
func (r *Reader) Buffered() bool {
	return r.find() || r.err != nil && (r.err != io.EOF || r.several == nil)
}

// Errorf returns a *LineError for the line that Next returned last.
func (r *Reader) Errorf(format string, args ...any) error { return r.ErrorAt(r.line, format, args...) }

// ErrorAt is Errorf for a line by its number.
func (r *Reader) ErrorAt(line int, format string, args ...any) error {
	return r.at(line, fmt.Errorf(format, args...))
}

func (r *Reader) at(line int, err error) *LineError {
	for _, f := range slices.Backward(r.files) {
		if line > f.before {
			return &LineError{f.name, line - f.before, err}
		}
	}
	return &LineError{"", line, err}
}

// find moves start past blank lines and reports whether a whole line begins
// there, with its LF at next. At the end of the stream the rest is a line.
func (r *Reader) find() bool {
	if r.next >= 0 {
		return true
	}
	if !r.begun {
		if r.end < len(bom) && r.err == nil && strings.HasPrefix(bom, string(r.buf[:r.end])) {
			return false
		}
		if bytes.HasPrefix(r.buf[:r.end], []byte(bom)) {
			r.start = len(bom)
		}
		r.searched, r.begun = r.start, true
	}
	for {
		n := bytes.IndexByte(r.buf[r.searched:r.end], '\n')
		if n < 0 {
			r.searched = r.end
			if r.err != io.EOF || blank(r.buf[r.start:r.end]) {
				return false
			}
			r.next = r.end
			return true
		}
		n += r.searched
		if !blank(r.buf[r.start:n]) {
			r.next = n
			return true
		}
		r.skipped++
		r.start, r.searched = n+1, n+1
	}
}

func blank(line []byte) bool { return space(line, 0) == len(line) }

// fill makes room in the buffer and reads once.
func (r *Reader) fill() {
	if r.start > 0 {
		copy(r.buf, r.buf[r.start:r.end])
		r.end -= r.start
		r.searched -= r.start
		r.start = 0
	}
	if r.end == len(r.buf) {
		if len(r.buf) == lastBuffer {
			r.tooLong(r.line + r.skipped + 1)
			return
		}
		grown := make([]byte, min(2*len(r.buf), lastBuffer))
		copy(grown, r.buf)
		r.buf = grown
	}
	for range 100 {
		n, err := r.r.Read(r.buf[r.end:])
		r.end += n
		if err != nil {
			r.err = err
			return
		}
		if n > 0 {
			return
		}
	}
	r.err = io.ErrNoProgress
}

func (r *Reader) tooLong(line int) {
	r.line, r.skipped = line, 0
	r.start, r.searched, r.next = r.end, r.end, -1
	r.err = r.Errorf("longer than 16 MiB, the limit of a line: split or shorten the text")
}

package ndjson

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// all reads everything, and returns each line as "number:line".
func all(r *Reader) (lines []string, err error) {
	for {
		line, err := r.Next()
		if err != nil {
			return lines, err
		}
		lines = append(lines, fmt.Sprintf("%d:%s", r.Line(), line))
	}
}

var streams = []struct {
	in   string
	want []string
}{
	{"", nil},
	{"\n", nil},
	{"\n\r\n \t\n", nil},
	{"\xef\xbb\xbf", nil},
	{"\xef\xbb", []string{"1:\xef\xbb"}},
	{"{}", []string{"1:{}"}},
	{"{}\n", []string{"1:{}"}},
	{"{}\r\n", []string{"1:{}"}},
	{"{}\r", []string{"1:{}"}},
	{"\xef\xbb\xbf{}\n{}", []string{"1:{}", "2:{}"}},
	{"\xef\xbb\xbf\n{}", []string{"2:{}"}},
	{"{}\n\xef\xbb\xbf{}", []string{"1:{}", "2:\xef\xbb\xbf{}"}},
	{"\n\na\n\n\nb\n\n", []string{"3:a", "6:b"}},
	{"a\r\n\r\nb\r\n  \r\n c ", []string{"1:a", "3:b", "5: c "}},
	{"a\rb\n", []string{"1:a\rb"}},
	{"\x00\n\x00", []string{"1:\x00", "2:\x00"}},
}

func TestReader(t *testing.T) {
	wrappers := map[string]func(io.Reader) io.Reader{
		"whole":   func(r io.Reader) io.Reader { return r },
		"bytes":   iotest.OneByteReader,
		"halves":  iotest.HalfReader,
		"eof":     iotest.DataErrReader,
		"stutter": func(r io.Reader) io.Reader { return &stutter{r: r} },
	}
	for _, s := range streams {
		for name, wrap := range wrappers {
			got, err := all(NewReader(wrap(strings.NewReader(s.in))))
			if err != io.EOF || !slices.Equal(got, s.want) {
				t.Errorf("%s %q: %q, %v, want %q", name, s.in, got, err, s.want)
			}
		}
	}
}

// A stutter reads nothing every second time, which io.Reader allows.
type stutter struct {
	r    io.Reader
	odd  bool
	stop bool // reads nothing any more
}

func (s *stutter) Read(p []byte) (int, error) {
	if s.odd = !s.odd; s.odd || s.stop {
		return 0, nil
	}
	return s.r.Read(p[:min(len(p), 1)])
}

// Lines around the sizes of the buffer are read whole.
func TestReaderSizes(t *testing.T) {
	var in []byte
	var want []string
	for i, size := range []int{1, firstBuffer - 2, firstBuffer - 1, firstBuffer, firstBuffer + 1, 3 * firstBuffer, 5, firstBuffer, 1} {
		line := strings.Repeat(string(rune('a'+i)), size)
		in = append(in, line+"\n"...)
		want = append(want, fmt.Sprintf("%d:%s", i+1, line))
	}
	for _, r := range []io.Reader{bytes.NewReader(in), iotest.HalfReader(bytes.NewReader(in))} {
		if got, err := all(NewReader(r)); err != io.EOF || !slices.Equal(got, want) {
			t.Errorf("%d lines, %v, want %d", len(got), err, len(want))
		}
	}
}

func TestReaderLimit(t *testing.T) {
	longest := strings.Repeat("x", MaxLine)
	for _, end := range []string{"", "\n", "\r\n", "\nmore"} {
		r := NewReader(strings.NewReader(bom + longest + end))
		if line, err := r.Next(); err != nil || len(line) != MaxLine {
			t.Errorf("the longest line and %q: %d bytes, %v", end, len(line), err)
		}
	}
	for _, end := range []string{"x", "x\n", "x\r\n", "xx", "xxxxxxx\n{}\n"} {
		r := NewReader(strings.NewReader("\n{}\n\n" + longest + end))
		got, err := all(r)
		var at *LineError
		if !errors.As(err, &at) || at.Line != 4 || len(got) != 1 {
			t.Errorf("the longest line and %q: %d lines, error %v", end, len(got), err)
		}
		if _, again := r.Next(); again != err || !r.Buffered() {
			t.Errorf("the error did not stay: %v", again)
		}
	}
}

// A line without an end is refused, with a buffer no larger than the limit.
func TestReaderEndless(t *testing.T) {
	r := NewReader(endless{})
	_, err := r.Next()
	if want := "line 1: longer than 16 MiB, the limit of a line: split or shorten the text"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if cap(r.buf) > MaxLine+64 {
		t.Errorf("the buffer grew to %d bytes", cap(r.buf))
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestReaderErrors(t *testing.T) {
	broken := errors.New("broken")
	in := io.MultiReader(strings.NewReader("a\nhalf"), iotest.ErrReader(broken))
	if got, err := all(NewReader(in)); err != broken || !slices.Equal(got, []string{"1:a"}) {
		t.Errorf("%q, %v, want the whole line and the error", got, err)
	}
	if _, err := all(NewReader(&stutter{stop: true})); err != io.ErrNoProgress {
		t.Errorf("error %v from a reader that reads nothing", err)
	}
}

// Buffered looks only at the buffer, and does not change the line.
func TestReaderBuffered(t *testing.T) {
	pieces := &pieces{"a\n", "b\n \n\r\nc\n\n", "d", "\n", "e"}
	r := NewReader(pieces)
	for _, want := range []struct {
		line     string
		buffered bool
		left     int
	}{{"a", false, 4}, {"b", true, 3}, {"c", false, 3}, {"d", false, 1}, {"e", true, 0}} {
		line, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		n := r.Line()
		if got := r.Buffered(); got != want.buffered || len(*pieces) != want.left {
			t.Errorf("after %s: buffered %v, %d pieces left", want.line, got, len(*pieces))
		}
		if string(line) != want.line || r.Line() != n {
			t.Errorf("%q on line %d became %q on line %d", want.line, n, line, r.Line())
		}
	}
}

// Each read of pieces returns one piece.
type pieces []string

func (s *pieces) Read(p []byte) (int, error) {
	if len(*s) == 0 {
		return 0, io.EOF
	}
	n := copy(p, (*s)[0])
	*s = (*s)[1:]
	return n, nil
}

// pile is several files, each with a name.
type pile struct {
	names, texts []string
	at           *strings.Reader
}

func newPile(files ...string) *pile {
	p := &pile{}
	for i := 0; i < len(files); i += 2 {
		p.names, p.texts = append(p.names, files[i]), append(p.texts, files[i+1])
	}
	p.at = strings.NewReader(p.texts[0])
	return p
}

func (p *pile) Read(b []byte) (int, error) { return p.at.Read(b) }
func (p *pile) FileName() string           { return p.names[0] }
func (p *pile) NextFile() bool {
	if len(p.names) == 1 {
		return false
	}
	p.names, p.texts = p.names[1:], p.texts[1:]
	p.at = strings.NewReader(p.texts[0])
	return true
}

// Each file has its own lines, byte order mark and last line without an end.
func TestFiles(t *testing.T) {
	for _, test := range []struct{ files, want []string }{
		{[]string{"a", "1\n2\n", "b", "3\n"}, []string{"a:1 1", "a:2 2", "b:1 3"}},
		{[]string{"a", "1", "b", "2"}, []string{"a:1 1", "b:1 2"}},
		{[]string{"a", bom + "1\r\n", "b", bom + "\n2\r"}, []string{"a:1 1", "b:2 2"}},
		{[]string{"a", "", "b", "\n\n", "c", "\n1\n \n ", "d", "", "e", "\n2"}, []string{"c:2 1", "e:2 2"}},
		{[]string{"", "1\n\n2"}, []string{"line 1 1", "line 3 2"}},
		{[]string{"a", "", "b", ""}, nil},
	} {
		r := NewReader(newPile(test.files...))
		var got []string
		var lines []int
		line, err := r.Next()
		for ; err == nil; line, err = r.Next() {
			got, lines = append(got, r.Place(r.Line())+" "+string(line)), append(lines, r.Line())
			if before, _ := strings.CutSuffix(r.Errorf("x").Error(), ": x"); before != r.Place(r.Line()) {
				t.Errorf("%q: an error is at %s", test.files, before)
			}
		}
		if err != io.EOF || !slices.Equal(got, test.want) {
			t.Errorf("%q: %q, %v", test.files, got, err)
		}
		// The places of earlier lines stay known.
		for i, n := range lines {
			if place, _, _ := strings.Cut(got[i], " "); !strings.HasPrefix(r.Place(n), place) || i > 0 && n <= lines[i-1] {
				t.Errorf("%q: line %d of %v is at %s now", test.files, n, lines, r.Place(n))
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("after the end: %v", err)
		}
	}
	r := NewReader(newPile("a", "1\n", "b", "2\n"+strings.Repeat("x", MaxLine+1)))
	if _, err := all(r); err == nil || !strings.HasPrefix(err.Error(), "b:2: longer than 16 MiB") {
		t.Errorf("a long line: %v", err)
	}
}

// Buffered is false before another file, which may make its reader wait.
func TestFilesBuffered(t *testing.T) {
	r := NewReader(newPile("a", "1\n2\n", "b", "3\n"))
	for _, want := range []bool{true, false, false} {
		if _, err := r.Next(); err != nil || r.Buffered() != want {
			t.Errorf("%s: buffered %v, %v", r.Place(r.Line()), !want, err)
		}
	}
}

func TestLineError(t *testing.T) {
	cause := errors.New("cause")
	r := NewReader(strings.NewReader("\na"))
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	err := r.Errorf("key %q: %w", "k", cause)
	var code interface{ ExitCode() int }
	if err.Error() != `line 2: key "k": cause` || !errors.Is(err, cause) || !errors.As(err, &code) || code.ExitCode() != 7 {
		t.Errorf("%v", err)
	}
}

func TestWriter(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(&out)
	w.Begin() // dropped
	line := strings.Repeat("x", 1000)
	for range 200 {
		if err := w.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if out.Len() == 0 {
		t.Error("nothing written before Flush")
	}
	_ = append(w.Begin(), "never ended"...)
	if err := w.Encode(struct {
		A string `json:"a"`
	}{"<&>"}); err != nil {
		t.Fatal(err)
	}
	if err := w.Encode(func() {}); err == nil {
		t.Error("encoded a function")
	}
	b := append(w.Begin(), `{"b":`...)
	if err := w.End(append(b, "1}"...)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if want := strings.Repeat(line+"\n", 200) + `{"a":"<&>"}` + "\n" + `{"b":1}` + "\n"; out.String() != want {
		t.Errorf("wrote %d bytes, want %d; they end in %q", out.Len(), len(want), out.String()[out.Len()-40:])
	}
}

func TestWriterError(t *testing.T) {
	full := &full{}
	w := NewWriter(full)
	if err := w.Write([]byte("a")); err != nil {
		t.Error(err)
	}
	for range 3 {
		if err := w.Flush(); err != errFull {
			t.Errorf("error %v", err)
		}
		if err := w.Write(make([]byte, 2*flushSize)); err != errFull {
			t.Errorf("error %v", err)
		}
	}
	if full.writes != 1 {
		t.Errorf("%d writes after an error", full.writes-1)
	}
}

var errFull = errors.New("full")

type full struct{ writes int }

func (f *full) Write([]byte) (int, error) {
	f.writes++
	return 0, errFull
}

func FuzzReader(f *testing.F) {
	for _, s := range streams {
		f.Add([]byte(s.in), 3)
	}
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		var want []string
		text, _ := bytes.CutPrefix(in, []byte(bom))
		for i, line := range bytes.Split(text, []byte("\n")) {
			line, _ = bytes.CutSuffix(line, []byte("\r"))
			if len(bytes.Trim(line, " \t\r")) > 0 {
				want = append(want, fmt.Sprintf("%d:%s", i+1, line))
			}
		}
		var cut pieces
		for step = max(1, step%100); len(in) > 0; {
			n := min(step, len(in))
			cut = append(cut, string(in[:n]))
			in = in[n:]
		}
		got, err := all(NewReader(&cut))
		if err != io.EOF || !slices.Equal(got, want) {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	})
}

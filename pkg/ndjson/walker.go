package ndjson

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// maxDepth limits the nesting of arrays and objects, including the line's
// object. Records nest four deep.
const maxDepth = 64

// A Walker reads the members of the JSON object that a line is, from left to
// right, each byte once:
//
//	var w ndjson.Walker
//	w.Begin(line)
//	for w.Next() {
//		switch string(w.Name()) {
//		case "id":
//			id = w.Raw()
//		case "more":
//			if w.Enter() {
//				for w.Next() {
//					…
//				}
//			}
//		}
//	}
//	if err := w.Err(); err != nil {
//		…
//	}
//
// A value that the caller does not read is checked and skipped by the next call
// of Next. The loop over a nested object must run until Next returns false.
//
// The line must strictly follow RFC 8259. In addition, its UTF-8 must be valid,
// its surrogates paired, and its nesting at most 64 deep. A name must not occur
// twice in the line's object or in an object that was entered; in objects that
// are skipped it may. Nothing may follow the line's object. The caller must not
// use what it has read until Next has returned false and Err nil.
//
// Names are compared byte by byte, after their escapes are resolved. Errors give
// the column in bytes, from 1.
type Walker struct {
	b      []byte
	i      int  // the next byte to read
	unread bool // the value at i has not been read yet
	first  bool // no member of the innermost object has been read yet
	name   []byte
	err    error

	depth  int // number of objects entered, including the line's own
	levels [maxDepth]level
	names  [16][]byte          // the first names of the entered objects
	count  int                 // number of names in names
	more   map[member]struct{} // all further names
}

// A level is an object that was entered and not left yet.
type level struct {
	at    int32  // offset of the object
	names int32  // the index of its first name
	seen  uint64 // a bit for the hash of each of its names
}

// A member is a name in the object at an offset.
type member struct {
	object int32
	name   string
}

// Begin starts again, with another line.
func (w *Walker) Begin(line []byte) {
	w.b, w.i, w.unread, w.err = line, space(line, 0), false, nil
	w.depth, w.count, w.more = 0, 0, nil
	if w.i == len(line) || line[w.i] != '{' {
		w.fail(syntax(w.i, "not a JSON object"))
		return
	}
	w.enter()
}

// Err is the first error in what was read. It is final after Next has returned
// false for the line's object.
func (w *Walker) Err() error { return w.err }

// Next moves to the next member of the innermost object. It returns false at the
// end of that object, which it leaves, and after an error.
func (w *Walker) Next() bool {
	if w.unread {
		w.Raw()
	}
	if w.depth == 0 {
		return false
	}
	b, i := w.b, space(w.b, w.i)
	switch {
	case i < len(b) && b[i] == '}':
		return w.leave(i + 1)
	case w.first:
		w.first = false
	case i < len(b) && b[i] == ',':
		i = space(b, i+1)
	default:
		return w.fail(unexpected(b, i, "',' or '}'"))
	}
	var end int
	if end = shortName(b, i); end > 0 {
		w.name = b[i+1 : end-1]
	} else {
		var plain bool
		var err error
		if end, plain, err = name(b, i); err != nil {
			return w.fail(err)
		}
		if w.name = b[i+1 : end-1]; !plain {
			w.name = Unescape(w.name)
		}
	}
	if w.twice() {
		return w.fail(syntax(i, "member %.100q twice in one object", w.name))
	}
	if end+1 < len(b) && b[end] == ':' && b[end+1] > ' ' { // usually there is no space
		w.i, w.unread = end+1, true
		return true
	}
	var err error
	if w.i, err = colon(b, end); err != nil {
		return w.fail(err)
	}
	if w.i == len(b) {
		return w.fail(unexpected(b, w.i, "a value"))
	}
	w.unread = true
	return true
}

// Name is the name of the member, with its escapes resolved. It is valid as long
// as the line is. Do not write to it.
func (w *Walker) Name() []byte { return w.name }

// Kind is the first byte of the value that is to be read: '"', '{', '[', a
// digit, a minus sign, or 't', 'f' and 'n' for true, false and null.
func (w *Walker) Kind() byte { return w.b[w.i] }

// Raw reads the value and returns its text, without space around it, or nil if
// the value is malformed. The result is valid as long as the line is. Do not
// write to it.
func (w *Walker) Raw() []byte {
	w.unread = false
	end, err := value(w.b, w.i, w.depth)
	if err != nil {
		w.fail(err)
		return nil
	}
	tok := w.b[w.i:end:end]
	w.i = end
	return tok
}

// Text reads the value if it is a string, and returns the string with its
// escapes resolved. ok is false for another value, which stays unread, and for a
// malformed string. The text is valid as long as the line is. Do not write to
// it.
func (w *Walker) Text() (text []byte, ok bool) {
	if w.b[w.i] != '"' {
		return nil, false
	}
	end, plain, err := scanString(w.b, w.i+1)
	if err != nil {
		return nil, w.fail(err)
	}
	text = w.b[w.i+1 : end-1 : end-1]
	w.i, w.unread = end, false
	if !plain {
		text = Unescape(text)
	}
	return text, true
}

// Count reads the value if it is a whole number from 0 to below 10¹⁸, written in
// digits. ok is false for any other value, which stays unread.
func (w *Walker) Count() (n int64, ok bool) {
	i := w.i
	for ; i < len(w.b) && w.b[i]-'0' <= 9; i++ {
		n = n*10 + int64(w.b[i]-'0')
	}
	size := i - w.i
	if size == 0 || size > 18 || size > 1 && w.b[w.i] == '0' || i < len(w.b) && (w.b[i] == '.' || w.b[i]|0x20 == 'e') {
		return 0, false
	}
	w.i, w.unread = i, false
	return n, true
}

// Enter makes the value, if it is an object, the innermost object: Next then
// iterates over its members. If the value is not an object, Enter returns false.
func (w *Walker) Enter() bool {
	if w.b[w.i] != '{' {
		return false
	}
	if w.depth == maxDepth {
		return w.fail(tooDeep(w.i))
	}
	w.enter()
	return true
}

// Rest is the line from the value on, for another parser. If that parser accepts
// the value, the caller tells the Walker with Took.
func (w *Walker) Rest() []byte { return w.b[w.i:] }

// Took says that another parser read the value from Rest, that it has n bytes,
// and that it is valid JSON.
func (w *Walker) Took(n int) { w.i, w.unread = w.i+n, false }

func (w *Walker) enter() {
	w.levels[w.depth] = level{int32(w.i), int32(w.count), 0}
	w.depth++
	w.i++
	w.first, w.unread = true, false
}

func (w *Walker) leave(i int) bool {
	w.depth--
	w.count = int(w.levels[w.depth].names)
	w.i, w.first = i, false
	if w.depth == 0 {
		if i = space(w.b, i); i < len(w.b) {
			return w.fail(syntax(i, "text after the object"))
		}
	}
	return false
}

func (w *Walker) fail(err error) bool {
	w.err, w.depth, w.unread = err, 0, false
	return false
}

// twice records the name, and reports whether the innermost object already had
// it.
func (w *Walker) twice() bool {
	object := &w.levels[w.depth-1]
	bit := uint64(1) << (len(w.name) & 63)
	if len(w.name) > 0 {
		bit = 1 << ((w.name[0]*5 + w.name[len(w.name)-1] + byte(len(w.name))) & 63)
	}
	if object.seen&bit != 0 { // perhaps the same name
		for _, other := range w.names[object.names:w.count] {
			if string(other) == string(w.name) {
				return true
			}
		}
	}
	object.seen |= bit
	if w.count < len(w.names) {
		w.names[w.count] = w.name
		w.count++
		return false
	}
	m := member{object.at, string(w.name)}
	if _, twice := w.more[m]; twice {
		return true
	}
	if w.more == nil {
		w.more = make(map[member]struct{})
	}
	w.more[m] = struct{}{}
	return false
}

// syntax returns the error for a fault at offset i of the line.
func syntax(i int, format string, args ...any) error {
	return fmt.Errorf("column %d: %w", i+1, fmt.Errorf(format, args...))
}

// unexpected returns the error for line[i] where want was expected.
func unexpected(line []byte, i int, want string) error {
	if string(bytes.TrimSpace(line)) == "{" { // JSON with one member a line
		return syntax(i, "an object must be on one line, as jq -c prints it")
	}
	if i >= len(line) {
		return syntax(i, "the line ends where %s was expected", want)
	}
	r, size := utf8.DecodeRune(line[i:])
	if r == utf8.RuneError && size == 1 {
		return invalidUTF8(i, line[i])
	}
	return syntax(i, "%q where %s was expected", r, want)
}

func tooDeep(i int) error { return syntax(i, "nested deeper than %d", maxDepth) }

// space returns the index of the first byte from i on that is not white space.
func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

// shortName is name for up to seven ASCII characters without an escape, which
// most names are. It returns 0 for other names.
func shortName(b []byte, i int) (end int) {
	if len(b)-i <= 8 || b[i] != '"' {
		return 0
	}
	x := binary.LittleEndian.Uint64(b[i+1:])
	hit := specials(x)
	n := bits.TrailingZeros64(hit) / 8
	if hit == 0 || byte(x>>(8*n)) != '"' || x&highs<<(64-8*n) != 0 {
		return 0
	}
	return i + n + 2
}

// name checks the member name that begins at b[i], like scanString.
func name(b []byte, i int) (end int, plain bool, err error) {
	if i >= len(b) || b[i] != '"' {
		return 0, false, unexpected(b, i, "a member name")
	}
	return scanString(b, i+1)
}

// colon returns where the value after the colon begins.
func colon(b []byte, i int) (int, error) {
	i = space(b, i)
	if i >= len(b) || b[i] != ':' {
		return 0, unexpected(b, i, "':'")
	}
	return space(b, i+1), nil
}

// value checks the value that begins at b[i], inside depth objects and arrays,
// and returns its end.
func value(b []byte, i, depth int) (int, error) {
	if i >= len(b) {
		return 0, unexpected(b, i, "a value")
	}
	switch c := b[i]; c {
	case '"':
		end, _, err := scanString(b, i+1)
		return end, err
	case 't':
		return literal(b, i, "true")
	case 'f':
		return literal(b, i, "false")
	case 'n':
		return literal(b, i, "null")
	case '[', '{':
		if depth == maxDepth {
			return 0, tooDeep(i)
		}
		return nested(b, i, depth+1)
	default:
		if c == '-' || '0' <= c && c <= '9' {
			return number(b, i)
		}
		return 0, unexpected(b, i, "a value")
	}
}

// nested checks the array or object that starts at b[i].
func nested(b []byte, i, depth int) (int, error) {
	object, closing, want := b[i] == '{', byte(']'), "',' or ']'"
	if object {
		closing, want = '}', "',' or '}'"
	}
	i = space(b, i+1)
	if i < len(b) && b[i] == closing {
		return i + 1, nil
	}
	for {
		var err error
		if object {
			if i, _, err = name(b, i); err != nil {
				return 0, err
			}
			if i, err = colon(b, i); err != nil {
				return 0, err
			}
		}
		if i, err = value(b, i, depth); err != nil {
			return 0, err
		}
		i = space(b, i)
		switch {
		case i < len(b) && b[i] == ',':
			i = space(b, i+1)
		case i < len(b) && b[i] == closing:
			return i + 1, nil
		default:
			return 0, unexpected(b, i, want)
		}
	}
}

func literal(b []byte, i int, word string) (int, error) {
	if !bytes.HasPrefix(b[i:], []byte(word)) {
		return 0, unexpected(b, i, "a value")
	}
	return i + len(word), nil
}

// number checks the number that starts at b[i] with a digit or a minus sign.
func number(b []byte, i int) (int, error) {
	if b[i] == '-' {
		i++
	}
	end := digits(b, i)
	if end == i {
		return 0, unexpected(b, i, "a digit")
	}
	if b[i] == '0' && end > i+1 {
		return 0, syntax(i, "a number with a leading zero")
	}
	i = end
	if i < len(b) && b[i] == '.' {
		i++
		if end = digits(b, i); end == i {
			return 0, unexpected(b, i, "a digit")
		}
		i = end
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if end = digits(b, i); end == i {
			return 0, unexpected(b, i, "a digit")
		}
		i = end
	}
	return i, nil
}

func digits(b []byte, i int) int {
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	return i
}

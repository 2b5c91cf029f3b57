package vector

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestBase64Known(t *testing.T) {
	const text = "AAAAPwAAoL/bD0lAwhYBAA==" // of packed, by Python's base64.b64encode
	if got := AppendBase64([]byte("x"), values); string(got) != "x"+text {
		t.Errorf("got %s, want x%s", got, text)
	}
	got, err := DecodeBase64([]float32{7}, []byte(text))
	if err != nil || !same(got, append([]float32{7}, values...)) {
		t.Errorf("got %v, %v", got, err)
	}
}

// Random values of every length are compared with encoding/base64.
func TestBase64(t *testing.T) {
	eachWay(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(5, 6))
		var v []float32
		for n := range 1000 {
			raw := appendBytes(nil, v)
			want := base64.StdEncoding.EncodeToString(raw)
			buf := make([]byte, 1+len(want)+1)
			buf[0], buf[len(buf)-1] = '<', '>'
			got := AppendBase64(buf[:1:1+len(want)], v)
			if string(got) != "<"+want || buf[len(buf)-1] != '>' {
				t.Fatalf("%d values: got %s, want <%s", n, got, want)
			}
			back, err := DecodeBase64(nil, []byte(want))
			if err != nil || !same(back, v) {
				t.Fatalf("%d values: got %v, %v", n, back, err)
			}
			v = append(v, math.Float32frombits(r.Uint32()))
		}
	})
}

// All groups of four characters are tried, among other groups.
func TestBase64Groups(t *testing.T) {
	eachWay(t, func(t *testing.T) {
		v := make([]float32, 0, 1<<12*6)
		for i := range uint32(1 << 12) {
			// Twelve bits are tried at each place that they can have.
			for shift := range uint32(6) {
				v = append(v, math.Float32frombits(i<<(4*shift)|i>>(12-shift)))
			}
		}
		want := base64.StdEncoding.EncodeToString(appendBytes(nil, v))
		if got := AppendBase64(nil, v); string(got) != want {
			t.Error("not as encoding/base64 writes it")
		}
	})
}

func TestDecodeBase64Refuses(t *testing.T) {
	good := string(AppendBase64(nil, make([]float32, 12)))
	for _, c := range []struct{ text, err string }{
		{"A", "not base64 as StdEncoding writes it"},
		{"AAAAAA", "not base64 as StdEncoding writes it"},
		{"AAAAAA=", "not base64 as StdEncoding writes it"},
		{"AAAAAB==", "not base64 as StdEncoding writes it"}, // bits in the padding
		{"AAAAAA==\n", "not base64 as StdEncoding writes it"},
		{"AAAA\r\nAA==", "not base64 as StdEncoding writes it"},
		{"AAAA-A==", "not base64 as StdEncoding writes it"},
		{"AAAA_A==", "not base64 as StdEncoding writes it"},
		{"=", "not base64 as StdEncoding writes it"},
		{"AA==", "1 bytes are not whole float32 values"},
		{"AAAA", "3 bytes are not whole float32 values"},
		{good + "AAAA", "51 bytes are not whole float32 values"},
		{"AAAAAA==" + good, "not base64 as StdEncoding writes it"},
	} {
		got, err := DecodeBase64([]float32{7}, []byte(c.text))
		if err == nil || err.Error() != c.err || !same(got, []float32{7}) {
			t.Errorf("%s: got %v, %v; want error %s", c.text, got, err, c.err)
		}
	}
	// Every byte that is not in the alphabet is tried at every place.
	for c := range 256 {
		for i := range good {
			text := []byte(good)
			text[i] = byte(c)
			_, err := DecodeBase64(nil, text)
			if want := strings.IndexByte(alphabet, byte(c)) < 0; (err != nil) != want {
				t.Fatalf("%q at %d: got error %v", byte(c), i, err)
			}
		}
	}
}

func TestBase64Allocs(t *testing.T) {
	v := make([]float32, 768)
	text := make([]byte, 0, 5000)
	if n := testing.AllocsPerRun(100, func() {
		text = AppendBase64(text[:0], v)
		v, _ = DecodeBase64(v[:0], text)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzBase64(f *testing.F) {
	for _, s := range []string{"", "AAAAPwAAoL/bD0lAwhYBAA==", "AAAAPw==", "AA==", "AAAA\nPw==", "////////", "AAAAPx=="} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := DecodeBase64(nil, text)
		raw, wantErr := base64.StdEncoding.Strict().DecodeString(string(text))
		good := wantErr == nil && len(raw)%4 == 0 && !bytes.ContainsAny(text, "\r\n")
		if (err == nil) != good {
			t.Fatalf("%q: got error %v, encoding/base64 %d bytes, %v", text, err, len(raw), wantErr)
		}
		if good && (!bytes.Equal(appendBytes(nil, got), raw) || !bytes.Equal(AppendBase64(nil, got), text)) {
			t.Fatalf("%q: got %v", text, got)
		}
		// The other direction: a text is equal to its values.
		var v []float32
		for raw := text; len(raw) >= 4; raw = raw[4:] {
			v = append(v, math.Float32frombits(binary.LittleEndian.Uint32(raw)))
		}
		want := base64.StdEncoding.EncodeToString(text[:4*len(v)])
		if got := AppendBase64(nil, v); string(got) != want {
			t.Fatalf("%q: got %s, want %s", text, got, want)
		}
	})
}

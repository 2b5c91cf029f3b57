package gcs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"gbatch/pkg/emulator"
	"gbatch/pkg/exit"
	"gbatch/pkg/wire"
)

// stored uploads an object for the tests of this file.
func (g *storage) stored(data []byte) *Object {
	g.t.Helper()
	o, err := g.Upload(g.t.Context(), Upload{To: in("big")}, bytes.NewReader(data), int64(len(data)))
	if err != nil {
		g.t.Fatal(err)
	}
	return o
}

// An object is read in order and without a gap, under each fault.
func TestOpen(t *testing.T) {
	for _, size := range []int{0, 1, partSize - 1, partSize, partSize + 1, 9*partSize + 12345} {
		data := random(size)
		for _, faults := range [][]string{
			nil,
			{"object.read every=3 cut=1000000"},
			{"object.read every=2 cut=0"},
			{"object.read nth=1-5 status=503"},
			{"object.read p=0.3 drop"},
			{"object.read nth=2 delay=300ms"}, // the parts behind it must wait
			{"object.read nth=3 delay=100ms at=100000"},
			{"object.read nth=1 header=Content-Length:99999999"}, // it says more than it sends
			{"object.read nth=2 status=200 body=empty"},
		} {
			if size == 0 && faults != nil || size <= partSize && strings.Contains(fmt.Sprint(faults), "nth=2") {
				continue
			}
			g := newStorage(t, emulator.Options{})
			o := g.stored(data)
			g.faults(faults...)
			r := g.Open(t.Context(), o)
			got, err := io.ReadAll(r)
			if strings.Contains(fmt.Sprint(faults), "status=200") {
				if err == nil || wire.Transient(err) {
					t.Errorf("a reply without a range: %v", err)
				}
			} else if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v: %d bytes, %v", size, faults, len(got), err)
			}
			if n, again := r.Read(make([]byte, 1)); n > 0 || again == nil {
				t.Errorf("a read after the end: %d, %v", n, again)
			}
			r.Close()
		}
	}
}

// Readers of one byte, of half the buffer and so on see the same.
func TestOpenReader(t *testing.T) {
	g := newStorage(t, emulator.Options{})
	data := random(partSize + 1000)
	o := g.stored(data)
	r := g.Open(t.Context(), o)
	defer r.Close()
	if err := iotest.TestReader(io.MultiReader(r), data); err != nil {
		t.Error(err)
	}
}

// Another version, another object, an object that has gone, wrong bytes, a range that
// was not asked for: these are errors, and no byte of them is read.
func TestOpenIsPinned(t *testing.T) {
	data := random(4 * partSize)
	for _, c := range []struct {
		name string
		then func(g *storage) // after the first read
		say  string
	}{
		{"replaced", func(g *storage) { g.insert("big", "another") }, "replaced or deleted"},
		{"deleted", func(g *storage) { g.Delete(g.t.Context(), in("big"), Any) }, "replaced or deleted"},
		{"another version", func(g *storage) { g.faults("object.read header=X-Goog-Generation:7") }, "version"},
		{"another range", func(g *storage) { g.faults("object.read header='Content-Range: bytes 0-4194303/16777216'") }, "was requested"},
		{"another size", func(g *storage) { g.faults("object.read short=9000000") }, "was requested"},
		{"no range", func(g *storage) { g.faults("object.read header=Content-Range") }, "was requested"},
		{"refused", func(g *storage) { g.faults("object.read status=403") }, "check them and their rights"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newStorage(t, emulator.Options{})
			o := g.stored(data)
			// One part is sent; the others wait for the change.
			var calls atomic.Int32
			changed := make(chan struct{})
			g.serve(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("alt") == "media" && calls.Add(1) > 1 {
					<-changed
				}
				g.s.ServeHTTP(w, r)
			})
			r := g.Open(t.Context(), o)
			defer r.Close()
			first := make([]byte, 1000)
			go func() {
				for calls.Load() < 1 {
					runtime.Gosched()
				}
				c.then(g)
				close(changed)
			}()
			n, err := io.ReadFull(r, first)
			if err == nil {
				if !bytes.Equal(first[:n], data[:n]) {
					t.Fatal("wrong bytes")
				}
				var rest []byte
				rest, err = io.ReadAll(r)
				if !bytes.HasPrefix(data[n:], rest) {
					t.Error("wrong bytes were read")
				}
			}
			if err == nil || wire.Transient(err) || exit.Code(err) != exit.Failed || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%v", err)
			}
		})
	}
	g := newStorage(t, emulator.Options{})
	o := g.stored(data)
	o.CRC32C = "AAAAAA=="
	r := g.Open(t.Context(), o)
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err == nil || !strings.Contains(err.Error(), "CRC32C") || wire.Transient(err) {
		t.Errorf("wrong bytes: %v", err)
	}
}

// If the server stays away, the read fails, and can be tried later.
func TestOpenFails(t *testing.T) {
	g := newStorage(t, emulator.Options{})
	o := g.stored(random(3 * partSize))
	g.faults("object.read nth=1-999 status=503")
	r := g.client(50*time.Millisecond).Open(t.Context(), o)
	defer r.Close()
	for range 2 {
		if n, err := r.Read(make([]byte, 10)); n != 0 || exit.Code(err) != exit.TryLater || !strings.Contains(err.Error(), "gs://bucket/big") {
			t.Errorf("%d, exit %d, %v", n, exit.Code(err), err)
		}
	}
}

// A reader that is closed, or whose context ends, does not wait for the server.
func TestOpenIsClosed(t *testing.T) {
	g := newStorage(t, emulator.Options{})
	o := g.stored(random(20 * partSize))
	for _, end := range []string{"close", "cancel"} {
		g.faults("object.read nth=1-2 hold=" + end) // these never end by themselves
		ctx, cancel := context.WithCancelCause(t.Context())
		r := g.Open(ctx, o)
		if err := g.s.WaitHold(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		if end == "cancel" {
			cancel(errors.New("a reason"))
			if _, err := io.Copy(io.Discard, r); err == nil || !strings.Contains(err.Error(), "a reason") {
				t.Error(err)
			}
		}
		r.Close()
		r.Close()
		if _, err := r.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("a read after close: %v", err)
		}
		cancel(nil)
	}
}

// read reads an object of generatedSize bytes, and prints the peak of its memory.
func read(crc string) {
	c, err := New(nil, time.Minute)
	if err != nil {
		panic(err)
	}
	r := c.Open(context.Background(), &Object{Name: in("big"), Generation: 7, Size: generatedSize, CRC32C: crc})
	n, err := io.Copy(io.Discard, r)
	if err != nil {
		panic(err)
	}
	r.Close()
	status, _ := os.ReadFile("/proc/self/status")
	_, after, _ := bytes.Cut(status, []byte("VmHWM:"))
	fmt.Println(n, strings.Fields(string(after))[0])
}

// generated serves an object of generatedSize bytes that is nowhere stored. If rate
// is above 0, each connection gets so many bytes a second, as from Cloud Storage.
func generated(rate int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Goog-Generation", "7")
		http.ServeContent(w, r, "", time.Time{}, &slow{ReadSeeker: io.NewSectionReader(pattern{}, 0, generatedSize), rate: rate})
	}
}

var (
	generatedSize = cmp.Or(int64(envInt("GCS_TEST_BYTES")), 1<<30)
	block         = random(1 << 20)
)

func envInt(name string) int {
	n, _ := strconv.Atoi(os.Getenv(name))
	return n
}

// pattern repeats block.
type pattern struct{}

func (pattern) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		n += copy(p[n:], block[(off+int64(n))%int64(len(block)):])
	}
	return n, nil
}

type slow struct {
	io.ReadSeeker
	rate  int
	begun time.Time
	sent  int
}

func (s *slow) Read(p []byte) (int, error) {
	n, err := s.ReadSeeker.Read(p)
	if s.rate > 0 {
		if s.begun.IsZero() {
			s.begun = time.Now()
		}
		s.sent += n
		time.Sleep(time.Until(s.begun.Add(time.Duration(float64(s.sent) / float64(s.rate) * float64(time.Second)))))
	}
	return n, err
}

// The memory of a reader does not depend on the size of the object. Set
// GCS_TEST_BYTES=10000000000 for ten gigabytes.
func TestOpenMemory(t *testing.T) {
	if testing.Short() || runtime.GOOS != "linux" {
		t.Skip("reads a gigabyte, and its memory from /proc")
	}
	server := httptest.NewServer(generated(0))
	defer server.Close()
	sum := crc32.New(castagnoli)
	io.Copy(sum, io.NewSectionReader(pattern{}, 0, generatedSize))
	begun := time.Now()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), readerEnv+"="+base64.StdEncoding.EncodeToString(sum.Sum(nil)), "STORAGE_EMULATOR_HOST="+server.URL)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	var n, kilobytes int64
	if _, serr := fmt.Sscan(string(out), &n, &kilobytes); err != nil || serr != nil || n != generatedSize {
		t.Fatalf("%s, %v", out, err)
	}
	t.Logf("%d MB, %.0f MB/s, peak %d MB", n/1e6, float64(n)/1e6/time.Since(begun).Seconds(), kilobytes/1000)
	if kilobytes > 96_000 {
		t.Errorf("%d kB", kilobytes)
	}
}

// What a connection of 50 MB/s gives, alone and with others. One stream is
// [wire.Download].
func BenchmarkOpen(b *testing.B) {
	for _, rate := range []int{50_000_000, 0} {
		server := httptest.NewServer(generated(rate))
		defer server.Close()
		b.Setenv("STORAGE_EMULATOR_HOST", server.URL)
		c, err := New(nil, time.Minute)
		if err != nil {
			b.Fatal(err)
		}
		const size = 200_000_000
		object := &Object{Name: in("big"), Generation: 7, Size: generatedSize}
		for name, open := range map[string]func() io.ReadCloser{
			"ranges": func() io.ReadCloser { return c.Open(b.Context(), object) },
			"one": func() io.ReadCloser {
				return wire.NewDownload(b.Context(), "big", time.Minute, func(h http.Header) (*http.Response, error) {
					req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, c.object(in("big")), nil)
					if err != nil {
						return nil, err
					}
					req.Header = h
					return c.Send(req)
				})
			},
		} {
			b.Run(fmt.Sprintf("%s/%dMB", name, rate/1e6), func(b *testing.B) {
				b.SetBytes(size)
				for b.Loop() {
					r := open()
					if _, err := io.CopyN(io.Discard, r, size); err != nil {
						b.Fatal(err)
					}
					r.Close()
				}
			})
		}
	}
}

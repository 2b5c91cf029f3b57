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
	"sync"
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

// slowly makes every connection count as slow, or none.
func slowly(t *testing.T, slow bool) {
	old := fast
	t.Cleanup(func() { fast = old })
	if fast = 0; slow {
		fast = 1e18
	}
}

// An object is read in order and without a gap, under each fault.
func TestOpen(t *testing.T) {
	t.Run("slow", func(t *testing.T) {
		slowly(t, true)
		testOpen(t)
	})
	t.Run("fast", func(t *testing.T) {
		slowly(t, false)
		testOpen(t)
	})
}

func testOpen(t *testing.T) {
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
			{"object.read nth=1 cut=20000000"},                   // after the look at the speed
			{"object.read nth=1-2 status=200 body=empty"},
		} {
			if size == 0 && faults != nil {
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
	data := random(trial + 4*partSize)
	for _, c := range []struct {
		name string
		then func(g *storage) // before the first request, or after it
		say  string
	}{
		{"replaced", func(g *storage) { g.insert("big", "another") }, "replaced or deleted"},
		{"deleted", func(g *storage) { g.Delete(g.t.Context(), in("big"), Any) }, "replaced or deleted"},
		{"another version", func(g *storage) { g.faults("object.read header=X-Goog-Generation:7") }, "version"},
		{"another range", func(g *storage) { g.faults("object.read header='Content-Range: bytes 0-4194303/16777216'") }, "was requested"},
		{"another size", func(g *storage) { g.faults(fmt.Sprintf("object.read short=%d", len(data)-5)) }, "was requested"},
		{"no range", func(g *storage) { g.faults("object.read header=Content-Range") }, "was requested"},
		{"refused", func(g *storage) { g.faults("object.read status=403") }, "check them and their rights"},
	} {
		for _, before := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, before %v", c.name, before), func(t *testing.T) {
				slowly(t, true)
				g := newStorage(t, emulator.Options{})
				o := g.stored(data)
				var calls atomic.Int32
				g.serve(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Query().Get("alt") == "media" && calls.Add(1) == 2 && !before {
						c.then(g)
					}
					g.s.ServeHTTP(w, r)
				})
				if before {
					c.then(g)
				}
				r := g.Open(t.Context(), o)
				defer r.Close()
				got, err := io.ReadAll(r)
				if !bytes.HasPrefix(data, got) {
					t.Error("wrong bytes were read")
				}
				if err == nil || wire.Transient(err) || exit.Code(err) != exit.Failed || !strings.Contains(err.Error(), c.say) {
					t.Errorf("%v", err)
				}
			})
		}
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
	for _, divided := range []bool{false, true} {
		slowly(t, divided)
		hold := "object.read nth=1 hold=read"
		if divided {
			hold = "object.read nth=2-9 hold=read"
		}
		g.faults(hold) // these requests never end by themselves
		ctx, cancel := context.WithCancelCause(t.Context())
		r := g.Open(ctx, o)
		if divided {
			if _, err := io.CopyN(io.Discard, r, trial); err != nil {
				t.Fatal(err)
			}
		}
		failed := make(chan error)
		go func() {
			_, err := io.Copy(io.Discard, r)
			failed <- err
		}()
		if err := g.s.WaitHold(t.Context(), "read"); err != nil {
			t.Fatal(err)
		}
		cancel(errors.New("a reason"))
		if err := <-failed; err == nil || !strings.Contains(err.Error(), "a reason") {
			t.Error(err)
		}
		r.Close()
	}
	slowly(t, true)
	for _, bytes := range []int64{1, trial} {
		g.faults("object.read nth=2-9 hold=read")
		r := g.Open(t.Context(), o)
		if _, err := io.CopyN(io.Discard, r, bytes); err != nil {
			t.Fatal(err)
		}
		if bytes == trial {
			if err := g.s.WaitHold(t.Context(), "read"); err != nil {
				t.Fatal(err)
			}
		}
		r.Close()
		r.Close()
		if _, err := r.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("a read after close: %v", err)
		}
	}
}

// A fast connection stays the only one. A slow one gets company, also if it was fast
// at first.
func TestOpenDivides(t *testing.T) {
	for _, c := range []struct {
		name string
		rate func(sent int) int
		most int32
		min  int32
	}{
		{"fast", func(int) int { return 0 }, 1, 1},
		{"slow", func(int) int { return 50e6 }, 3 * streams, streams},
		{"slow later", func(sent int) int {
			if sent < 2*trial {
				return 0
			}
			return 50e6
		}, 3 * streams, streams},
	} {
		t.Run(c.name, func(t *testing.T) {
			slowly(t, c.name != "fast") // a busy machine is slow, too
			if c.name == "slow later" {
				fast = 200e6
			}
			var mu sync.Mutex
			addresses := map[string]bool{}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				addresses[r.RemoteAddr] = true
				mu.Unlock()
				w.Header().Set("X-Goog-Generation", "7")
				http.ServeContent(w, r, "", time.Time{}, &slow{ReadSeeker: io.NewSectionReader(pattern{}, 0, generatedSize), rate: c.rate})
			}))
			defer server.Close()
			t.Setenv("STORAGE_EMULATOR_HOST", server.URL)
			client, err := New(nil, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			r := client.Open(t.Context(), &Object{Name: in("big"), Generation: 7, Size: generatedSize})
			defer r.Close()
			sum := crc32.New(castagnoli)
			const n = 6*trial + 1
			if _, err := io.CopyN(sum, r, n); err != nil {
				t.Fatal(err)
			}
			want := crc32.New(castagnoli)
			io.Copy(want, io.NewSectionReader(pattern{}, 0, n))
			if sum.Sum32() != want.Sum32() {
				t.Error("other bytes")
			}
			mu.Lock()
			defer mu.Unlock()
			if k := int32(len(addresses)); k < c.min || k > c.most {
				t.Errorf("%d connections", k)
			}
		})
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
		http.ServeContent(w, r, "", time.Time{}, &slow{ReadSeeker: io.NewSectionReader(pattern{}, 0, generatedSize), rate: func(int) int { return rate }})
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
	rate  func(sent int) int // bytes a second; 0 is no limit
	begun time.Time
	sent  int // since then
	all   int
}

func (s *slow) Read(p []byte) (int, error) {
	n, err := s.ReadSeeker.Read(p)
	s.all += n
	if rate := s.rate(s.all); rate > 0 {
		if s.begun.IsZero() {
			s.begun = time.Now()
		}
		s.sent += n
		time.Sleep(time.Until(s.begun.Add(time.Duration(float64(s.sent) / float64(rate) * float64(time.Second)))))
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

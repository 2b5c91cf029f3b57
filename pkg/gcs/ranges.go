package gcs

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"gbatch/pkg/wire"
)

// A stream reads an object on one connection, as long as that is fast. If it is slow,
// the rest is divided: one connection of Cloud Storage is slower than the network, but
// several of them take more time of the processor. Then memory is streams+2 parts,
// however large the object is. Larger parts are not faster.
const (
	streams  = 6
	partSize = 4 << 20
	trial    = 4 * partSize // bytes after which the speed of the connection is looked at
)

// fast is how many bytes a second one connection must give to remain alone. It is not
// higher, because on a busy machine a fast connection looks slow.
var fast = 100e6

// Open returns the bytes of one version of an object, in order. If a connection
// breaks, another one continues at the next byte. The last Read compares the checksum.
// The caller must close the reader, but not during a Read: that ends with ctx.
func (c *Client) Open(ctx context.Context, o *Object) io.ReadCloser {
	ctx, stop := context.WithCancelCause(ctx)
	return &stream{Client: c, ctx: ctx, stop: stop, object: o, sum: crc32.New(castagnoli)}
}

type stream struct {
	*Client
	ctx    context.Context
	stop   context.CancelCauseFunc
	object *Object
	sum    hash.Hash32
	read   int64 // bytes that were read, and are in sum

	alone  io.ReadCloser // the only connection; nil before the first Read
	tried  int64         // bytes that it gave since its speed was looked at
	waited time.Duration // how long Read has waited for them

	workers     sync.WaitGroup
	order, free chan *part // nil before the object is divided
	now         *part      // the part that is read, or nil
	off         int        // bytes of it that were read
}

var errClosed = errors.New("the reader is closed")

func (s *stream) Read(b []byte) (n int, err error) {
	switch {
	case s.now == nil && s.ctx.Err() != nil:
		return 0, context.Cause(s.ctx)
	case s.read == s.object.Size:
		return 0, s.end()
	case len(b) == 0:
		return 0, nil
	}
	if s.order == nil {
		if n, err = s.one(b); err != nil {
			s.stop(err)
		}
	}
	if s.order != nil && n == 0 {
		n, err = s.several(b)
	}
	s.sum.Write(b[:n])
	s.read += int64(n)
	return n, err
}

// one reads from the only connection. It divides the rest of the object if that breaks
// or is slow.
func (s *stream) one(b []byte) (n int, err error) {
	if s.alone == nil {
		resp, err := s.get(s.read, s.object.Size-1)
		if err != nil {
			return 0, s.broken(err)
		}
		s.alone = resp.Body
	}
	begun := time.Now()
	n, err = s.alone.Read(b[:min(int64(len(b)), s.object.Size-s.read)])
	s.waited += time.Since(begun)
	s.tried += int64(n)
	slow := false
	if s.tried >= trial {
		slow = s.waited.Seconds()*fast > float64(s.tried)
		s.tried, s.waited = 0, 0
	}
	if at := s.read + int64(n); at == s.object.Size {
		return n, nil
	} else if slow || n > 0 && err != nil {
		s.alone.Close()
		s.divide(at)
		return n, nil
	}
	if err != nil {
		s.alone.Close()
		return 0, s.broken(err)
	}
	return n, nil
}

// broken divides the rest of the object after a transient error of the only
// connection: the connections of parts try again.
func (s *stream) broken(err error) error {
	switch {
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case !wire.Transient(err):
		return about(s.object.Name, err)
	}
	s.divide(s.read)
	return nil
}

// divide starts the connections that read parts, from a byte on.
func (s *stream) divide(from int64) {
	size := s.object.Size
	s.order, s.free = make(chan *part, streams+2), make(chan *part, streams+2)
	for range cap(s.free) {
		s.free <- new(part)
	}
	todo := make(chan *part)
	s.workers.Go(func() {
		defer close(s.order)
		defer close(todo)
		for at := from; at < size; at += partSize {
			var p *part
			select {
			case p = <-s.free:
			case <-s.ctx.Done():
				return
			}
			p.from, p.size, p.done = at, int(min(partSize, size-at)), make(chan struct{})
			s.order <- p // has room for all parts
			select {
			case todo <- p:
			case <-s.ctx.Done():
				p.err = context.Cause(s.ctx)
				close(p.done)
				return
			}
		}
	})
	for range min(streams, (size-from+partSize-1)/partSize) {
		s.workers.Go(func() {
			for p := range todo {
				p.err = s.fill(p)
				close(p.done)
			}
		})
	}
}

// several reads from the next part.
func (s *stream) several(b []byte) (int, error) {
	if s.now == nil {
		p, ok := <-s.order
		if !ok {
			return 0, context.Cause(s.ctx)
		}
		<-p.done
		if p.err != nil {
			s.stop(p.err)
			return 0, p.err
		}
		s.now, s.off = p, 0
	}
	n := copy(b, s.now.data[s.off:])
	s.off += n
	if s.off == len(s.now.data) {
		s.free <- s.now
		s.now = nil
	}
	return n, nil
}

// end returns io.EOF if the object has its checksum.
func (s *stream) end() error {
	sum := base64.StdEncoding.EncodeToString(s.sum.Sum(nil))
	if s.object.CRC32C != "" && sum != s.object.CRC32C {
		return about(s.object.Name, wire.Permanent(fmt.Errorf("its %d bytes have the CRC32C %s, Cloud Storage says %s", s.read, sum, s.object.CRC32C)))
	}
	return io.EOF
}

// Close ends the requests. It may be called more than once.
func (s *stream) Close() error {
	s.stop(errClosed)
	s.workers.Wait()
	return nil
}

// A part is one range of the object.
type part struct {
	from int64
	size int
	data []byte
	err  error
	done chan struct{} // closed when data or err is set
}

// fill requests a part until it is complete.
func (s *stream) fill(p *part) error {
	if cap(p.data) < p.size {
		p.data = make([]byte, 0, min(partSize, s.object.Size))
	}
	p.data = p.data[:0]
	b, begun := wire.NewBackoff(s.patience), 0
	for {
		err := s.more(p)
		switch {
		case err == nil:
			return nil
		case s.ctx.Err() != nil:
			return context.Cause(s.ctx)
		case !wire.Transient(err):
			return about(s.object.Name, err)
		}
		if len(p.data)-begun >= wire.GoesOn {
			b, begun = wire.NewBackoff(s.patience), len(p.data)
		}
		if err := b.Pause(s.ctx, err); err != nil {
			return about(s.object.Name, err)
		}
	}
}

// more requests what is missing of a part, and reads as much as arrives.
func (s *stream) more(p *part) error {
	resp, err := s.get(p.from+int64(len(p.data)), p.from+int64(p.size)-1)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.ReadFull(resp.Body, p.data[len(p.data):p.size])
	p.data = p.data[:len(p.data)+n]
	return err
}

// get requests the bytes of the object from one to another, and checks that the reply
// is about them.
func (s *stream) get(from, last int64) (*http.Response, error) {
	o := s.object
	query := url.Values{"alt": {"media"}, "generation": {strconv.FormatInt(o.Generation, 10)}}
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, s.Client.object(o.Name)+"?"+query.Encode(), nil)
	if err != nil {
		return nil, wire.Permanent(err)
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, last))
	resp, err := s.Send(req)
	if wire.Missing(err) {
		return nil, fmt.Errorf("it was replaced or deleted: %w", err)
	}
	if err != nil {
		return nil, err
	}
	said, want := resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", from, last, o.Size)
	generation := resp.Header.Get("X-Goog-Generation")
	switch {
	case generation != "" && generation != strconv.FormatInt(o.Generation, 10):
		err = wire.Permanent(fmt.Errorf("version %d was requested, Cloud Storage sent %.50q", o.Generation, generation))
	case resp.StatusCode != http.StatusPartialContent || said != want:
		err = wire.Permanent(fmt.Errorf("%q was requested, Cloud Storage answered %d with %.100q", want, resp.StatusCode, said))
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

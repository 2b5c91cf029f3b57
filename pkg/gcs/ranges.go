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

	"gbatch/pkg/wire"
)

// A stream reads one object by several connections: each is slower than the
// network. Memory is streams+2 parts, however large the object is. Larger parts are
// not faster.
const (
	streams  = 6
	partSize = 4 << 20
)

// Open returns the bytes of one version of an object, in order. It requests parts of
// them on several connections. If a connection breaks, its part continues at the
// next byte. The last Read compares the checksum. The caller must close the reader.
func (c *Client) Open(ctx context.Context, o *Object) io.ReadCloser {
	ctx, stop := context.WithCancelCause(ctx)
	s := &stream{
		Client: c, ctx: ctx, stop: stop, object: o, sum: crc32.New(castagnoli),
		order: make(chan *part, streams+2), free: make(chan *part, streams+2),
	}
	for range cap(s.free) {
		s.free <- new(part)
	}
	todo := make(chan *part)
	s.workers.Go(func() {
		defer close(s.order)
		defer close(todo)
		for at := int64(0); at < o.Size; at += partSize {
			var p *part
			select {
			case p = <-s.free:
			case <-ctx.Done():
				return
			}
			p.from, p.size, p.done = at, int(min(partSize, o.Size-at)), make(chan struct{})
			s.order <- p // has room for all parts
			select {
			case todo <- p:
			case <-ctx.Done():
				p.err = context.Cause(ctx)
				close(p.done)
				return
			}
		}
	})
	for range min(streams, (o.Size+partSize-1)/partSize) {
		s.workers.Go(func() {
			for p := range todo {
				p.err = s.fill(p)
				close(p.done)
			}
		})
	}
	return s
}

type stream struct {
	*Client
	ctx         context.Context
	stop        context.CancelCauseFunc
	object      *Object
	workers     sync.WaitGroup
	order, free chan *part

	now  *part // the part that is read, or nil
	off  int   // bytes of it that were read
	sum  hash.Hash32
	read int64
}

// A part is one range of the object.
type part struct {
	from int64
	size int
	data []byte
	err  error
	done chan struct{} // closed when data or err is set
}

var errClosed = errors.New("the reader is closed")

func (s *stream) Read(b []byte) (int, error) {
	if s.now == nil {
		if s.ctx.Err() != nil {
			return 0, context.Cause(s.ctx)
		}
		p, ok := <-s.order
		if !ok {
			return 0, s.end()
		}
		<-p.done
		if p.err != nil {
			s.stop(p.err)
			return 0, p.err
		}
		s.now, s.off = p, 0
	}
	n := copy(b, s.now.data[s.off:])
	s.sum.Write(b[:n])
	s.off, s.read = s.off+n, s.read+int64(n)
	if s.off == len(s.now.data) {
		s.free <- s.now
		s.now = nil
	}
	return n, nil
}

// end returns io.EOF if the object was read to its end and has its checksum.
func (s *stream) end() error {
	if s.read < s.object.Size {
		return context.Cause(s.ctx)
	}
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
	o := s.object
	from, last := p.from+int64(len(p.data)), p.from+int64(p.size)-1
	query := url.Values{"alt": {"media"}, "generation": {strconv.FormatInt(o.Generation, 10)}}
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, s.Client.object(o.Name)+"?"+query.Encode(), nil)
	if err != nil {
		return wire.Permanent(err)
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, last))
	resp, err := s.Send(req)
	if wire.Missing(err) {
		return fmt.Errorf("it was replaced or deleted: %w", err)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, want := resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", from, last, o.Size)
	generation := resp.Header.Get("X-Goog-Generation")
	switch {
	case generation != "" && generation != strconv.FormatInt(o.Generation, 10):
		return wire.Permanent(fmt.Errorf("version %d was requested, Cloud Storage sent %.50q", o.Generation, generation))
	case resp.StatusCode != http.StatusPartialContent || said != want:
		return wire.Permanent(fmt.Errorf("%q was requested, Cloud Storage answered %d with %.100q", want, resp.StatusCode, said))
	}
	n, err := io.ReadFull(resp.Body, p.data[len(p.data):p.size])
	p.data = p.data[:len(p.data)+n]
	return err
}

package wire

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// GoesOn is how many bytes must arrive until a download counts as working
// again.
const GoesOn = 64 << 10

// A Download reads a result file from its beginning to its end. If a connection
// breaks, it continues at the next byte, so that its reader sees every byte of
// the file exactly once.
type Download struct {
	ctx      context.Context
	name     string
	patience time.Duration
	get      func(header http.Header) (*http.Response, error)
	failures *Backoff

	body    io.ReadCloser // nil if not connected
	begun   int64         // value of off when the present failures began
	skip    int64         // bytes that the server sends again
	off     int64         // bytes read
	size    int64         // of the file; -1: unknown
	version string        // ETag or Last-Modified
}

// NewDownload returns a download of the file that get requests. It retries
// transient errors for up to patience, counted from the last byte that arrived.
func NewDownload(ctx context.Context, name string, patience time.Duration, get func(header http.Header) (*http.Response, error)) *Download {
	return &Download{ctx: ctx, name: name, patience: patience, get: get, failures: NewBackoff(patience), size: -1}
}

func (d *Download) Read(p []byte) (int, error) {
	for {
		if d.off == d.size {
			return 0, io.EOF
		}
		n, err := d.try(p)
		switch {
		case n > 0:
			if d.off-d.begun >= GoesOn {
				d.failures, d.begun = NewBackoff(d.patience), d.off
			}
			return n, nil // the next call returns err
		case err == nil:
		case d.ctx.Err() != nil:
			return 0, context.Cause(d.ctx)
		case err == io.EOF && d.off == d.size:
			return 0, io.EOF
		case !Transient(err):
			return 0, err
		default:
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			if err := d.failures.Pause(d.ctx, fmt.Errorf("download %s: %w", d.name, err)); err != nil {
				return 0, err
			}
		}
	}
}

// try reads once. After an error the download is not connected.
func (d *Download) try(p []byte) (n int, err error) {
	if d.body == nil {
		if err := d.open(); err != nil {
			d.Close()
			return 0, err
		}
	}
	if n, err = d.body.Read(p); err != nil {
		d.Close()
	}
	if d.skip > 0 {
		again := int(min(d.skip, int64(n)))
		n = copy(p, p[again:n])
		d.skip -= int64(again)
	}
	if d.off += int64(n); err == io.EOF && d.size < 0 {
		d.size = d.off // the end of the body gives the size
	}
	if d.size >= 0 && d.off > d.size {
		return 0, Permanent(fmt.Errorf("%s is longer than %d bytes, the size that google gave", d.name, d.size))
	}
	return n, err
}

// Close may be called more than once.
func (d *Download) Close() error {
	if d.body != nil {
		d.body.Close()
		d.body = nil
	}
	return nil
}

// open requests the file from byte d.off on.
func (d *Download) open() error {
	header := http.Header{}
	if d.off > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", d.off))
		if d.version != "" {
			header.Set("If-Range", d.version)
		}
	}
	resp, err := d.get(header)
	var e *Error
	if errors.As(err, &e) && e.HTTP == http.StatusRequestedRangeNotSatisfiable && d.off > 0 && (e.size < 0 || e.size == d.off) {
		d.size = d.off // the connection broke at the file's end
		return io.EOF
	}
	if err != nil {
		return err
	}
	d.body = resp.Body
	from, size := int64(0), resp.ContentLength
	if resp.StatusCode == http.StatusPartialContent {
		said := resp.Header.Get("Content-Range")
		if from, size, err = contentRange(said); err != nil || from != d.off {
			return Permanent(fmt.Errorf("%s: the bytes from %d on were requested, google sent %q", d.name, d.off, said))
		}
	}
	version := cmp.Or(resp.Header.Get("ETag"), resp.Header.Get("Last-Modified"))
	if version != "" && d.version != "" && version != d.version || d.size >= 0 && size >= 0 && size != d.size {
		return Permanent(fmt.Errorf("%s changed while it was read: fetch it again", d.name))
	}
	d.version, d.skip = cmp.Or(version, d.version), d.off-from
	if size >= 0 {
		d.size = size
	}
	return nil
}

// contentRange parses the Content-Range of a 206 (RFC 9110, 14.4). The size is
// -1 if the header has * for it.
func contentRange(s string) (from, size int64, err error) {
	span, total, _ := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	first, _, _ := strings.Cut(span, "-")
	if from, err = strconv.ParseInt(first, 10, 64); err != nil || total == "*" {
		return from, -1, err
	}
	size, err = strconv.ParseInt(total, 10, 64)
	return from, size, err
}

package gbatch

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
)

// A download reads one of Google's result files from its beginning to its end.
// Where a connection breaks it goes on at the byte it had come to, so that its
// reader sees the file whole and once.
type download struct {
	ctx      context.Context
	client   *client
	name     string // files/…
	failures *backoff

	body    io.ReadCloser // nil: not connected
	skip    int64         // bytes that come again
	off     int64         // bytes read
	size    int64         // of the file; -1: not told
	version string        // ETag or Last-Modified
}

func (c *client) download(ctx context.Context, name string) *download {
	return &download{ctx: ctx, client: c, name: name, failures: c.backoff(), size: -1}
}

func (d *download) Read(p []byte) (int, error) {
	for {
		if d.off == d.size {
			return 0, io.EOF
		}
		n, err := d.try(p)
		switch {
		case n > 0:
			d.failures = d.client.backoff()
			return n, nil // what err means shows at the next call
		case err == nil:
		case d.ctx.Err() != nil:
			return 0, context.Cause(d.ctx)
		case err == io.EOF && d.size < 0:
			return 0, io.EOF
		case !passing(err):
			return 0, err
		default:
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			if err := d.failures.pause(d.ctx, fmt.Errorf("download %s: %w", d.name, err)); err != nil {
				return 0, err
			}
		}
	}
}

// try reads once. After an error it is not connected any more.
func (d *download) try(p []byte) (n int, err error) {
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
	if d.off += int64(n); d.size >= 0 && d.off > d.size {
		return 0, lasting{fmt.Errorf("%s is longer than the %d bytes it was said to have", d.name, d.size)}
	}
	return n, err
}

// Close may be called more than once.
func (d *download) Close() {
	if d.body != nil {
		d.body.Close()
		d.body = nil
	}
}

// open asks for the file from d.off on.
func (d *download) open() error {
	header := http.Header{}
	if d.off > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", d.off))
		if d.version != "" {
			header.Set("If-Range", d.version)
		}
	}
	var resp *http.Response
	_, err := d.client.do(d.ctx, func(ctx context.Context) (err error) {
		resp, err = d.client.get(ctx, d.name+":download", "alt=media", header)
		return err
	})
	if err != nil {
		return err
	}
	d.body = resp.Body
	from, size := int64(0), resp.ContentLength
	if resp.StatusCode == http.StatusPartialContent {
		said := resp.Header.Get("Content-Range")
		if _, err := fmt.Sscanf(said, "bytes %d-%d/%d", &from, new(int64), &size); err != nil || from != d.off {
			return lasting{fmt.Errorf("%s: asked for the bytes from %d on, google sent %q", d.name, d.off, said)}
		}
	}
	version := cmp.Or(resp.Header.Get("ETag"), resp.Header.Get("Last-Modified"))
	if version != "" && d.version != "" && version != d.version || d.size >= 0 && size >= 0 && size != d.size {
		return lasting{fmt.Errorf("%s changed while it was read: fetch it again", d.name)}
	}
	d.version, d.skip = cmp.Or(version, d.version), d.off-from
	if size >= 0 {
		d.size = size
	}
	return nil
}

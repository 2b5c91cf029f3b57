package gcs

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"gbatch/pkg/wire"
)

// A Content is what is to be stored.
type Content struct {
	Type     string            // the content type
	Metadata map[string]string // the user's own

	size int64
	crc  string
}

// resource is the metadata that goes with the bytes. Cloud Storage refuses bytes
// that do not have the checksum.
func (w *Content) resource(n Name) []byte {
	doc, _ := json.Marshal(struct {
		Name        string            `json:"name"`
		ContentType string            `json:"contentType,omitempty"`
		Metadata    map[string]string `json:"metadata,omitempty"`
		CRC32C      string            `json:"crc32c"`
	}{n.Object, w.Type, w.Metadata, w.crc})
	return doc
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// measure sets the size and the checksum.
func (w *Content) measure(r io.Reader) (err error) {
	h := crc32.New(castagnoli)
	w.size, err = io.Copy(h, r)
	w.crc = base64.StdEncoding.EncodeToString(h.Sum(nil))
	return err
}

func (c *Client) upload(n Name, kind string, query url.Values) string {
	query.Set("uploadType", kind)
	return c.base + "/upload/storage/v1/b/" + url.PathEscape(n.Bucket) + "/o?" + query.Encode()
}

// Insert stores a small object if the live object has a generation; see [None] and
// [Any]. Of all clients that replace one generation, one succeeds; the others get an
// error that [NotMet] reports. If an object with the same content and metadata is
// there, that counts as stored: so a protocol puts a random number into its content.
func (c *Client) Insert(ctx context.Context, n Name, generation int64, content []byte, w Content) (o *Object, err error) {
	w.measure(bytes.NewReader(content))
	var body bytes.Buffer
	parts := multipart.NewWriter(&body)
	for _, p := range []struct {
		kind string
		data []byte
	}{{"application/json", w.resource(n)}, {w.Type, content}} {
		part, _ := parts.CreatePart(textproto.MIMEHeader{"Content-Type": {p.kind}})
		part.Write(p.data)
	}
	parts.Close()
	err = wire.Retry(ctx, c.patience, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.upload(n, "multipart", condition(generation)), bytes.NewReader(body.Bytes()))
		if err != nil {
			return wire.Permanent(err)
		}
		req.Header.Set("Content-Type", "multipart/related; boundary="+parts.Boundary())
		o, err = c.stored(req, n, &w)
		return err
	})
	if NotMet(err) {
		return c.ours(ctx, n, &w, err)
	}
	return o, about(n, err)
}

// stored sends the last request of a write, and checks the object in the reply.
func (c *Client) stored(req *http.Request, n Name, w *Content) (*Object, error) {
	body, resp, err := c.Whole(req)
	if err != nil {
		return nil, err
	}
	o, err := decodeObject(body, resp.Header)
	switch {
	case err != nil:
		return nil, err
	case o.Name != n:
		return nil, wire.Permanent(fmt.Errorf("the reply is about %s", o))
	case o.Size != w.size || o.CRC32C != w.crc:
		return nil, wire.Permanent(fmt.Errorf("%d bytes were sent, with the CRC32C %s; Cloud Storage has %d, with %s", w.size, w.crc, o.Size, o.CRC32C))
	}
	return o, nil
}

// An Upload stores a large object. It continues after a broken connection, and
// after a kill if the caller keeps the session.
type Upload struct {
	To         Name
	Generation int64 // see [Client.Insert]
	Content
	// Session is that of an earlier process, or "". If it cannot be continued, the
	// upload begins again. It is a URL that lets everybody write the object: it is
	// a secret.
	Session string
	Keep    func(session string) error // called with a new session, before the first byte is sent
	Stored  func(bytes int64)          // called with the number of bytes that are stored
}

// Upload sends the bytes of r. Cloud Storage stores them in steps of 256 KiB as they
// arrive, and says which it has after a failure.
func (c *Client) Upload(ctx context.Context, u Upload, r io.ReaderAt, size int64) (*Object, error) {
	if err := u.measure(io.NewSectionReader(r, 0, size)); err != nil {
		return nil, err
	}
	if u.size != size {
		return nil, io.ErrUnexpectedEOF
	}
	o, err := c.send(ctx, &u, r)
	if NotMet(err) {
		return c.ours(ctx, u.To, &u.Content, err)
	}
	return o, about(u.To, err)
}

// errExpired is the error of a session that Cloud Storage does not know any more.
var errExpired = errors.New("the upload session has expired")

func (c *Client) send(ctx context.Context, u *Upload, r io.ReaderAt) (o *Object, err error) {
	ask, inherited := u.Session != "", u.Session != ""
	b, most := wire.NewBackoff(c.patience), int64(0)
	for {
		stored := int64(0)
		if u.Session == "" {
			err = c.start(ctx, u)
		} else if ask {
			stored, o, err = c.stopped(ctx, u)
			if o != nil && inherited {
				err = c.live(ctx, u)
			}
		}
		if err == nil && o == nil {
			if stored > most {
				b, most = wire.NewBackoff(c.patience), stored
			}
			u.tell(stored)
			o, err = c.rest(ctx, u, r, stored)
		}
		switch {
		case err == nil:
			u.tell(u.size)
			return o, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, errExpired) || inherited && !wire.Transient(err) && !NotMet(err):
			u.Session, inherited, o = "", false, nil
		case !wire.Transient(err):
			return nil, err
		}
		ask = true
		if err := b.Pause(ctx, err); err != nil {
			return nil, err
		}
	}
}

func (u *Upload) tell(stored int64) {
	if u.Stored != nil {
		u.Stored(stored)
	}
}

// start begins a session.
func (c *Client) start(ctx context.Context, u *Upload) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.upload(u.To, "resumable", condition(u.Generation)), bytes.NewReader(u.resource(u.To)))
	if err != nil {
		return wire.Permanent(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Upload-Content-Type", u.Type)
	req.Header.Set("X-Upload-Content-Length", strconv.FormatInt(u.size, 10))
	_, resp, err := c.Whole(req)
	if err != nil {
		return err
	}
	if u.Session = resp.Header.Get("Location"); u.Session == "" {
		return errors.New("the reply has no URL for the upload")
	}
	if u.Keep != nil {
		if err := u.Keep(u.Session); err != nil {
			return wire.Permanent(err)
		}
	}
	return nil
}

// put sends a request to the session. Only the path and the query of its URL are
// used, so that a token is sent to no other server.
func (c *Client) put(ctx context.Context, u *Upload, contentRange string, content io.Reader, size int64) (h http.Header, o *Object, err error) {
	at, err := url.Parse(u.Session)
	base, berr := url.Parse(c.base)
	if err != nil || berr != nil || at.Query().Get("upload_id") == "" {
		return nil, nil, errExpired
	}
	if !strings.HasPrefix(at.Path, base.Path+"/") { // as a gateway passes it on
		at.Path, at.RawPath = base.Path+at.Path, ""
	}
	at.Scheme, at.Host, at.User = base.Scheme, base.Host, nil
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, at.String(), content)
	if err != nil {
		return nil, nil, wire.Permanent(err)
	}
	req.ContentLength = size
	req.Header.Set("Content-Range", contentRange)
	body, resp, err := c.Whole(req, http.StatusPermanentRedirect)
	var e *wire.Error
	if errors.As(err, &e) && (e.HTTP == http.StatusNotFound || e.HTTP == http.StatusGone || e.HTTP == 499) {
		return nil, nil, fmt.Errorf("%w: %w", errExpired, err)
	}
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode == http.StatusPermanentRedirect {
		return resp.Header, nil, nil
	}
	o, err = decodeObject(body, resp.Header)
	if err == nil && (o.Name != u.To || !o.same(u.size, u.crc, u.Metadata)) {
		err = wire.Permanent(fmt.Errorf("the session stored another object: %s with %d bytes", o, o.Size))
	}
	return resp.Header, o, err
}

// stopped asks how many bytes are stored. It returns the object if all are.
func (c *Client) stopped(ctx context.Context, u *Upload) (stored int64, o *Object, err error) {
	h, o, err := c.put(ctx, u, fmt.Sprintf("bytes */%d", u.size), http.NoBody, 0)
	if err != nil || o != nil {
		return 0, o, err
	}
	said := h.Get("Range")
	if said == "" {
		return 0, nil, nil
	}
	last, ok := strings.CutPrefix(said, "bytes=0-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || n < 0 || n >= u.size {
		return 0, nil, wire.Permanent(fmt.Errorf("of %d bytes Cloud Storage has stored %.50q", u.size, said))
	}
	return n + 1, nil, nil
}

// live returns errExpired if the object that a session stored has been replaced or
// deleted since.
func (c *Client) live(ctx context.Context, u *Upload) error {
	o, err := c.Stat(ctx, u.To)
	if wire.Missing(err) || err == nil && !o.same(u.size, u.crc, u.Metadata) {
		return errExpired
	}
	return err
}

// rest sends the bytes from an offset on.
func (c *Client) rest(ctx context.Context, u *Upload, r io.ReaderAt, from int64) (*Object, error) {
	contentRange := fmt.Sprintf("bytes %d-%d/%d", from, u.size-1, u.size)
	var body io.Reader = http.NoBody
	switch {
	case u.size == 0:
		contentRange = "bytes */0"
	case from == u.size:
		contentRange = fmt.Sprintf("bytes */%d", u.size)
	default:
		body = io.NewSectionReader(r, from, u.size-from)
	}
	_, o, err := c.put(ctx, u, contentRange, body, u.size-from)
	if err == nil && o == nil {
		err = errors.New("not all bytes are stored yet")
	}
	return o, err
}

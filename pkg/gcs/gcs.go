// Package gcs is a client of Cloud Storage's JSON API
// (cloud.google.com/storage/docs/json_api/v1): as much as a protocol needs in which
// each object is made once.
//
// All calls retry transient errors. A call that writes has a precondition: if its
// reply is lost, the next attempt fails on what the first one did, and the object
// tells whether it is ours.
package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"gbatch/pkg/exit"
	"gbatch/pkg/wire"
)

// A Client makes the calls.
type Client struct {
	*wire.Transport
	base     string // URL of the service, without a final slash
	patience time.Duration
}

// New returns a client that sends the tokens of token. Transient errors are retried
// for up to patience. As in Google's libraries, STORAGE_EMULATOR_HOST names another
// server, which gets no token.
func New(token func(context.Context) (string, error), patience time.Duration) (*Client, error) {
	c := wire.Credential{Token: token, Refused: "Cloud Storage refused the credentials, check them and their rights on the bucket"}
	base := "https://storage.googleapis.com"
	if host := os.Getenv("STORAGE_EMULATOR_HOST"); host != "" {
		if !strings.Contains(host, "://") {
			host = "http://" + host
		}
		u, err := url.Parse(host)
		if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, exit.Errorf(exit.Usage, "STORAGE_EMULATOR_HOST is not the address of a server: set it to HOST:PORT or leave it out")
		}
		base, c.Token = strings.TrimSuffix(host, "/"), nil
	}
	return &Client{wire.NewStreams(c), base, patience}, nil
}

// A Name is where an object is.
type Name struct{ Bucket, Object string }

// ParseURI reads gs://BUCKET/OBJECT. The object may be empty.
func ParseURI(s string) (n Name, err error) {
	rest, ok := strings.CutPrefix(s, "gs://")
	n.Bucket, n.Object, _ = strings.Cut(rest, "/")
	if !ok || n.Bucket == "" || strings.ContainsAny(n.Bucket, " ?#%\\") {
		return n, fmt.Errorf("%.200q is not gs://BUCKET or gs://BUCKET/NAME", s)
	}
	return n, nil
}

func (n Name) String() string { return "gs://" + n.Bucket + "/" + n.Object }

// Below returns the name of an object in the folder n.
func (n Name) Below(name string) Name {
	n.Object = strings.TrimPrefix(strings.TrimSuffix(n.Object, "/")+"/"+name, "/")
	return n
}

// An Object is what Cloud Storage knows about an object.
type Object struct {
	Name
	Generation int64 // the version of the content; greater than 0
	Size       int64
	CRC32C     string            // in base64
	Metadata   map[string]string // the user's own
	Updated    time.Time
	Asked      time.Time // the server's time when it sent the reply; zero if it is unknown
}

// Generation of a precondition: what must be there for a call to write.
const (
	// None lets a call write only if there is no object of the name.
	None int64 = 0
	// Any is no precondition.
	Any int64 = -1
)

// NotMet reports whether a precondition was not met: another object, or another
// version, is there.
func NotMet(err error) bool {
	var e *wire.Error
	return errors.As(err, &e) && e.HTTP == http.StatusPreconditionFailed
}

// decodeObject reads an object resource. int64 are strings.
func decodeObject(body []byte, h http.Header) (*Object, error) {
	var doc struct {
		Bucket, Name, Crc32c string
		Generation, Size     int64 `json:",string"`
		Metadata             map[string]string
		Updated              time.Time
	}
	if err := json.Unmarshal(body, &doc); err != nil || doc.Bucket == "" || doc.Name == "" || doc.Generation <= 0 {
		return nil, fmt.Errorf("the reply is not an object: %.200s", wire.OneLine(string(body)))
	}
	asked, _ := http.ParseTime(h.Get("Date"))
	return &Object{Name{doc.Bucket, doc.Name}, doc.Generation, doc.Size, doc.Crc32c, doc.Metadata, doc.Updated, asked}, nil
}

// ---- calls

// object returns the URL of an object.
func (c *Client) object(n Name) string {
	return c.base + "/storage/v1/b/" + url.PathEscape(n.Bucket) + "/o/" + url.PathEscape(n.Object)
}

// once sends a request and reads the whole reply.
func (c *Client) once(ctx context.Context, method, url string, query url.Values) (body []byte, h http.Header, err error) {
	if len(query) > 0 {
		url += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, nil, wire.Permanent(err)
	}
	body, resp, err := c.Whole(req)
	if err != nil {
		return nil, nil, err
	}
	return body, resp.Header, nil
}

// Stat asks for an object. [wire.Missing] reports whether it does not exist.
func (c *Client) Stat(ctx context.Context, n Name) (o *Object, err error) {
	err = wire.Retry(ctx, c.patience, func() error {
		body, h, err := c.once(ctx, http.MethodGet, c.object(n), nil)
		if err == nil {
			o, err = decodeObject(body, h)
		}
		return err
	})
	return o, about(n, err)
}

// Read returns the content of a small object, and of the object what belongs to the
// content: Generation, Size, Asked and Updated.
func (c *Client) Read(ctx context.Context, n Name) (content []byte, o *Object, err error) {
	err = wire.Retry(ctx, c.patience, func() error {
		body, h, err := c.once(ctx, http.MethodGet, c.object(n), url.Values{"alt": {"media"}})
		if err != nil {
			return err
		}
		generation, err := strconv.ParseInt(h.Get("X-Goog-Generation"), 10, 64)
		if err != nil || generation <= 0 {
			return errors.New("the reply has no generation")
		}
		content, o = body, &Object{Name: n, Generation: generation, Size: int64(len(body))}
		o.Updated, _ = http.ParseTime(h.Get("Last-Modified"))
		o.Asked, _ = http.ParseTime(h.Get("Date"))
		return nil
	})
	return content, o, about(n, err)
}

// List calls each with the objects whose names begin with n's, page by page in the
// order of their names, until each returns false. Lists show every write at once.
func (c *Client) List(ctx context.Context, n Name, each func([]*Object) (more bool, err error)) error {
	list := c.base + "/storage/v1/b/" + url.PathEscape(n.Bucket) + "/o"
	err := wire.EveryPage(ctx, n.String(), func(ctx context.Context, token string) (p wire.Page, err error) {
		query := url.Values{"prefix": {n.Object}, "maxResults": {"1000"}}
		if token != "" {
			query.Set("pageToken", token)
		}
		err = wire.Retry(ctx, c.patience, func() error {
			body, _, err := c.once(ctx, http.MethodGet, list, query)
			if err == nil {
				p, err = wire.DecodePage(body, "items", "kind")
			}
			return err
		})
		return p, err
	}, func(p wire.Page) (bool, error) {
		objects := make([]*Object, len(p.Items))
		for i, item := range p.Items {
			o, err := decodeObject(item, nil)
			if err == nil && !strings.HasPrefix(o.Object, n.Object) {
				err = fmt.Errorf("the list of %s has %s", n, o)
			}
			if err != nil {
				return false, wire.Permanent(err)
			}
			objects[i] = o
		}
		return each(objects)
	})
	return about(n, err)
}

// Delete deletes the version of an object, or the object if generation is [Any]. An
// object that does not exist counts as deleted.
func (c *Client) Delete(ctx context.Context, n Name, generation int64) error {
	err := wire.Retry(ctx, c.patience, func() error {
		_, _, err := c.once(ctx, http.MethodDelete, c.object(n), condition(generation))
		return err
	})
	if wire.Missing(err) {
		return nil
	}
	return about(n, err)
}

// condition returns the precondition that the live object has a generation.
func condition(generation int64) url.Values {
	if generation == Any {
		return url.Values{}
	}
	return url.Values{"ifGenerationMatch": {strconv.FormatInt(generation, 10)}}
}

func about(n Name, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", n, err)
}

// same reports whether an object has the content and the metadata that were to be
// stored.
func (o *Object) same(size int64, crc string, metadata map[string]string) bool {
	if o.Size != size || o.CRC32C != crc {
		return false
	}
	for k, v := range metadata {
		if o.Metadata[k] != v {
			return false
		}
	}
	return true
}

// ours returns the object n if it is what was to be stored, or else refusal, the
// error of a write whose precondition was not met.
func (c *Client) ours(ctx context.Context, n Name, w *Content, refusal error) (*Object, error) {
	o, err := c.Stat(ctx, n)
	switch {
	case err == nil && o.same(w.size, w.crc, w.Metadata):
		return o, nil
	case err == nil || wire.Missing(err):
		return nil, about(n, refusal)
	}
	return nil, err
}

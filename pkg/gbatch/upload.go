package gbatch

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"

	"google.golang.org/genai"
)

// upload sends a payload and returns the file's name, files/…. When an attempt
// fails its reply may be what was lost, so that what lies at Google is looked
// at before the next one.
func (c *client) upload(ctx context.Context, p *payload) (name string, err error) {
	b := c.backoff()
	for {
		_, err := c.do(ctx, func(ctx context.Context) (err error) {
			name, err = c.uploadOnce(ctx, p)
			return err
		})
		if err == nil || !passing(err) {
			return name, err
		}
		if name, err := c.strays(ctx, p, ""); name != "" || err != nil {
			return name, err
		}
		if err := b.pause(ctx, err); err != nil {
			return "", err
		}
	}
}

func (c *client) uploadOnce(ctx context.Context, p *payload) (name string, err error) {
	defer func() {
		// The SDK takes for granted that the last reply holds a file.
		if recover() != nil {
			err = errors.New("the reply to the upload holds no file")
		}
	}()
	f, err := c.sdk.Files.Upload(ctx, p.reader(), &genai.UploadFileConfig{
		MIMEType:    "application/jsonl",
		DisplayName: p.label(),
		HTTPOptions: &genai.HTTPOptions{Headers: http.Header{
			"X-Goog-Upload-Header-Content-Length": {strconv.FormatInt(p.size, 10)},
		}},
	})
	if err != nil {
		return "", err
	}
	if f.Name == "" || f.SizeBytes != nil && *f.SizeBytes != p.size {
		return "", fmt.Errorf("the uploaded file %s is not of the %d bytes that were sent", f.Name, p.size)
	}
	return f.Name, nil
}

// strays looks through the uploaded files for those of p's name that lost
// their submission. It returns one whose content is p's, and deletes the
// others, but for the one that is in use.
func (c *client) strays(ctx context.Context, p *payload, used string) (name string, err error) {
	var found []*genai.File
	err = c.retry(ctx, func(ctx context.Context) error {
		found = nil
		page, err := c.sdk.Files.List(ctx, &genai.ListFilesConfig{PageSize: pageSize})
		return everyPage(ctx, page, err, func(f *genai.File) {
			if batch, hash, _, ok := parseLabel(f.DisplayName); ok && batch == p.Batch && hash == p.hash {
				found = append(found, f)
			}
		})
	})
	if err != nil {
		return "", err
	}
	for _, f := range found {
		switch {
		case f.Name == used:
		case used == "" && name == "" && p.is(f):
			name = f.Name
			slog.Info("an input file uploaded before is used", "file", name)
		default:
			c.deleteInput(ctx, f.Name)
		}
	}
	return name, nil
}

// is reports whether a file at Google holds exactly the bytes of p. Real
// replies have the hash as base64 of its hex digits, the SDK's comment as
// base64 of its bytes.
func (p *payload) is(f *genai.File) bool {
	if f.State != genai.FileStateActive || f.SizeBytes == nil || *f.SizeBytes != p.size {
		return false
	}
	h := sha256.New()
	if _, err := io.Copy(h, p.reader()); err != nil {
		return false
	}
	sum := h.Sum(nil)
	return f.Sha256Hash == base64.StdEncoding.EncodeToString(sum) ||
		f.Sha256Hash == base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString(sum)))
}

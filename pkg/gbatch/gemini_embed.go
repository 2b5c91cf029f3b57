package gbatch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"gbatch/pkg/vector"
	"gbatch/pkg/wire"
)

// A wrongReply is a reply with the code 200 that is not what was asked for. It
// may have been paid for, so the same call is not repeated.
type wrongReply struct{ error }

// embedContents sends requests in one online call. It returns the values for each
// of them, nil if they cannot be read, and Google's count of the tokens of all of them, or -1 if it does
// not count. The call changes nothing at Google, so transient errors are retried;
// a reply that is lost is paid for again.
func (g *gemini) embedContents(ctx context.Context, modelName string, requests [][]byte) (values [][]float32, tokens int64, err error) {
	body := slices.Concat([]byte(`{"requests":[`), bytes.Join(requests, []byte(",")), []byte("]}"))
	var reply []byte
	err = wire.Retry(ctx, g.patience, func() error {
		reply, err = g.post(ctx, "models/"+modelName+":batchEmbedContents", body)
		return err
	})
	if err != nil {
		return nil, -1, err
	}
	if values, tokens, err = decodeEmbeddings(reply, len(requests)); err != nil {
		return nil, -1, wrongReply{err}
	}
	return values, tokens, nil
}

// post sends a body and returns the whole reply.
func (g *gemini) post(ctx context.Context, path string, body []byte) (reply []byte, err error) {
	req, err := g.request(ctx, http.MethodPost, path, "", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	reply, _, err = g.Whole(req)
	return reply, err
}

// decodeEmbeddings reads the reply to a call with n requests:
//
//	{"embeddings":[{"values":[-0.034,0.0025]},…],"usageMetadata":{"promptTokenCount":5}}
//
// Newer models count the tokens of the whole call (maximhq/bifrost #7295).
func decodeEmbeddings(reply []byte, n int) (values [][]float32, tokens int64, err error) {
	var doc struct {
		Embeddings    []struct{ Values json.RawMessage }
		UsageMetadata struct{ PromptTokenCount json.RawMessage }
	}
	if err := json.Unmarshal(reply, &doc); err != nil {
		return nil, -1, fmt.Errorf("the reply cannot be read: %w", err)
	}
	if len(doc.Embeddings) != n {
		return nil, -1, fmt.Errorf("the reply has %d embeddings for %s", len(doc.Embeddings), count(n, "request"))
	}
	for _, e := range doc.Embeddings {
		v, _, err := vector.AppendFloats(nil, e.Values)
		if err != nil { // also null and a missing member
			v = nil
		}
		values = append(values, v)
	}
	tokens = -1
	if n, err := strconv.ParseInt(string(bytes.Trim(doc.UsageMetadata.PromptTokenCount, `"`)), 10, 64); err == nil && n >= 0 {
		tokens = n
	}
	return values, tokens, nil
}

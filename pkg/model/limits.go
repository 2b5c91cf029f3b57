package model

import "math"

// Limits are how large a batch may be.
type Limits struct {
	Requests int
	Bytes    int64 // of its file
	Tokens   int64 // as an upper bound
}

// gemini is what a batch for the Gemini API has by default: it fits the queue of the
// lowest paid tier. vertex is what Vertex AI takes in one job of an embedding model
// (docs.cloud.google.com, batch prediction for embeddings). Google names no limit of
// tokens there.
var (
	gemini = Limits{Requests: 10_000, Bytes: 100e6, Tokens: 400_000}
	vertex = Limits{Requests: 1_000_000, Bytes: 1e9, Tokens: math.MaxInt64}
)

// Vertex is the value of --backend for Vertex AI. Any other one is the Gemini API.
const Vertex = "vertex"

// LimitsOf returns the limits of a batch by default, for a value of --backend.
func LimitsOf(backend string) Limits {
	if backend == Vertex {
		return vertex
	}
	return gemini
}

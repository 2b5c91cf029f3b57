package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// serve answers like Google for jobs that have succeeded. Their results are the
// files of a folder: batches/NAME has files/NAME, and batches/NAME-xN has the
// same N times. With NAME-xN-rM each connection gives M MB/s. The result of the Vertex AI job M/batchPredictionJobs/N is the
// object gs://rM/predictions-xN/predictions.jsonl, the file predictions N times.
// It drops uploads. It does as little work as possible, because it runs on the
// processors of the measured command.
func serve(dir string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("{\"url\":\"http://%s\"}\n", listener.Addr())
	base := "http://" + listener.Addr().String()
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, "/v1beta/")
		switch {
		case strings.HasPrefix(r.URL.Path, "/upload/"):
			n, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			received, _ := strconv.ParseInt(r.Header.Get("X-Goog-Upload-Offset"), 10, 64)
			h := w.Header()
			h.Set("X-Goog-Upload-URL", base+"/upload/data")
			h.Set("X-Goog-Upload-Status", "active")
			if strings.Contains(r.Header.Get("X-Goog-Upload-Command"), "finalize") {
				h.Set("X-Goog-Upload-Status", "final")
				fmt.Fprintf(w, `{"file":{"name":"files/input","sizeBytes":"%d","state":"ACTIVE"}}`, received+n)
				return
			}
			io.WriteString(w, "{}")
		case strings.HasSuffix(path, ":asyncBatchEmbedContent"):
			io.WriteString(w, `{"name":"batches/new","metadata":{"state":"BATCH_STATE_PENDING"}}`)
		case strings.HasSuffix(path, ":download"):
			results(w, r, dir, strings.TrimSuffix(strings.TrimPrefix(path, "files/"), ":download"))
		case strings.HasPrefix(r.URL.Path, "/computeMetadata/"):
			w.Header().Set("Metadata-Flavor", "Google")
			io.WriteString(w, `{"access_token":"bench","expires_in":3600,"token_type":"Bearer"}`)
		case strings.HasPrefix(r.URL.Path, "/v1/projects/"):
			at := strings.Split(r.URL.Path, "/") // ["" v1 projects P locations rM batchPredictionJobs N]
			fmt.Fprintf(w, `{"name":%q,"state":"JOB_STATE_SUCCEEDED","outputInfo":{"gcsOutputDirectory":"gs://%s/predictions-x%s"}}`, strings.TrimPrefix(r.URL.Path, "/v1/"), at[5], at[7])
		case strings.HasPrefix(r.URL.Path, "/storage/v1/b/"):
			at := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/storage/v1/b/"), "/", 3) // [rM o NAME-xN/predictions.jsonl]
			if len(at) == 3 {
				results(w, r, dir, strings.TrimSuffix(at[2], "/predictions.jsonl")+"-"+at[0])
				return
			}
			folder := r.URL.Query().Get("prefix") // NAME-xN/
			_, size, _, err := open(dir, strings.TrimSuffix(folder, "/"))
			if err != nil {
				http.Error(w, err.Error(), http.StatusNotFound)
				return
			}
			fmt.Fprintf(w, `{"items":[{"bucket":%q,"name":"%spredictions.jsonl","generation":"1","size":"%d"}]}`, at[0], folder, size)
		case strings.HasPrefix(path, "batches/"):
			fmt.Fprintf(w, `{"name":%q,"done":true,"metadata":{"state":"BATCH_STATE_SUCCEEDED","output":{"responsesFile":"files/%s"}}}`, path, strings.TrimPrefix(path, "batches/"))
		default:
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, "{}")
		}
	}))
}

// open opens the file of NAME, NAME-xN or NAME-xN-rM. The size is that of N times the
// file, the rate is in bytes a second.
func open(dir, name string) (f *os.File, size int64, rate float64, err error) {
	name, end, _ := strings.Cut(name, "-x")
	times, speed, _ := strings.Cut(end, "-r")
	if f, err = os.Open(filepath.Join(dir, filepath.Base(name))); err != nil {
		return nil, 0, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, 0, err
	}
	n, _ := strconv.ParseInt(times, 10, 64)
	megabytes, _ := strconv.ParseFloat(speed, 64)
	return f, max(n, 1) * info.Size(), megabytes * 1e6, nil
}

// results sends a result, or the range of it that was asked for.
func results(w http.ResponseWriter, r *http.Request, dir, name string) {
	f, size, rate, err := open(dir, name)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer f.Close()
	from, last := int64(0), size-1
	code := http.StatusOK
	if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &last); n > 0 {
		code = http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, last, size))
	}
	w.Header().Set("Content-Length", strconv.FormatInt(last+1-from, 10))
	w.WriteHeader(code)
	info, err := f.Stat()
	begun, first := time.Now(), from
	for err == nil && from <= last {
		at := from % info.Size()
		n := min(info.Size()-at, last+1-from)
		if rate > 0 {
			n = min(n, 256<<10)
		}
		if _, err = f.Seek(at, io.SeekStart); err == nil {
			_, err = io.CopyN(w, f, n)
		}
		if from += n; rate > 0 {
			time.Sleep(time.Until(begun.Add(time.Duration(float64(from-first) / rate * float64(time.Second)))))
		}
	}
}

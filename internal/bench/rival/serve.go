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
// same N times. It drops uploads. It does as little work as possible, because it
// runs on the processors of the measured command.
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
		case strings.HasPrefix(path, "batches/"):
			fmt.Fprintf(w, `{"name":%q,"done":true,"metadata":{"state":"BATCH_STATE_SUCCEEDED","output":{"responsesFile":"files/%s"}}}`, path, strings.TrimPrefix(path, "batches/"))
		default:
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, "{}")
		}
	}))
}

func results(w http.ResponseWriter, r *http.Request, dir, name string) {
	name, times, _ := strings.Cut(name, "-x")
	f, err := os.Open(filepath.Join(dir, filepath.Base(name)))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer f.Close()
	n, _ := strconv.Atoi(times)
	if n < 2 {
		http.ServeContent(w, r, "", time.Time{}, f)
		return
	}
	info, err := f.Stat()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(int64(n)*info.Size(), 10))
	for range n {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return
		}
		if _, err := io.CopyN(w, f, info.Size()); err != nil {
			return
		}
	}
}

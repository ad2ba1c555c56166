package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

// "echo ADDRESS" is a receiver that refuses every message, and repeats all of it: the path,
// the header and the body.
func echo() {
	fmt.Println("listening on", os.Args[1])
	err := http.ListenAndServe(os.Args[1], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "%s %s %v", body, r.URL, r.Header)
	}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

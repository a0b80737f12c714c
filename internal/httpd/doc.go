// Package httpd serves a directory over HTTP/1.1 on the engine.
//
// What HTTP means is net/http's: ServeContent decides about ranges, conditions, types and
// status, against a [http.ResponseWriter] that records where the body lies instead of
// copying it. Requests are split by fasthttp's header parser. What is left here is the
// order of events on a connection, the cache of open files, and limits.
//
// A response to a plain GET is the same for as long as its file is, so its header is kept
// with the open file. Files are opened by goroutines, never by a loop: metadata may lie on a
// disk. Everything else belongs to the loop of its connection.
package httpd

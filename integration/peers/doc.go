// Command peers.
package main

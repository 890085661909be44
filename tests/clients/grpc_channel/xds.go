//go:build xds

package main

// The scheme xds:///, which is most of what there is to build.
import _ "google.golang.org/grpc/xds"

"""What `mq doctor` looks at, a file for each."""

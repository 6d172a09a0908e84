"""What a case is: reading, preparing, storing and going back to the native grid."""
